#!/usr/bin/env python3
"""Makes `events.ndjson` and `expected.json`: a small invented log, and what it must lead to.

    python3 make_sample.py          writes both files
    python3 make_sample.py --check  fails when the committed files are not what this script makes

The log is made from a fixed seed. `expected.json` is computed here from the log's lines alone, without Rhizon and
without the agents' code: an independent program's opinion of exactly-once, in-order processing.
"""

import hashlib
import json
import pathlib
import random
import sys
import uuid
from datetime import datetime, timedelta, timezone

HERE = pathlib.Path(__file__).parent
SEED = 20260214
APPLICATIONS = 36
OFFICERS = ["A. Achterberg", "B. van Loon", "C. Dijkgraaf", "D. Ørsted", "E. Molenaar", "front-desk", "night-shift"]
PROCEDURE = [
    "Receive application",
    "Check completeness",
    "Ask applicant for missing papers",
    "Register in municipal archive",
    "Consult fire brigade",
    "Consult neighbours",
    "Weigh advice & objections",
    "Decide on permit",
    "Send decision",
]


def make_events():
    """Each application goes through the procedure, leaves out or repeats some of it, and overlaps with the others."""
    chance = random.Random(SEED)
    start = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
    steps = []
    for number in range(1, APPLICATIONS + 1):
        time = start + timedelta(minutes=chance.randrange(0, 9 * 24 * 60))
        for activity in PROCEDURE:
            for _ in range(chance.choice([0, 1, 1] if activity.startswith(("Ask", "Consult")) else [1, 1, 1, 0, 2])):
                time += timedelta(milliseconds=chance.randrange(1, 48 * 3_600_000))
                steps.append((time, f"sample-{number}", activity, chance.choice(OFFICERS)))
    steps.sort()
    return [event(index, *step) for index, step in enumerate(steps)]


def event(index, time, application, activity, officer):
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"rhizon:sample:{SEED}:{index}")),
        "source": "/logs/sample",
        "type": "cmd.permit.record",
        "subject": application,
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"activity": activity, "resource": officer},
    }


def expect(lines):
    """What exactly-once processing in order must give, from the log's text."""
    cases, resources = {}, {}
    for line in lines:
        step = json.loads(line)
        case = cases.setdefault(step["subject"], {"steps": 0, "digest": ""})
        case["steps"] += 1
        case["digest"] = hashlib.sha256((case["digest"] + "|" + step["data"]["activity"]).encode()).hexdigest()
        officer = step["data"]["resource"]
        resources[officer] = resources.get(officer, 0) + 1
    return {"events": len(lines), "cases": dict(sorted(cases.items())), "resources": dict(sorted(resources.items()))}


def main():
    lines = [json.dumps(event, separators=(",", ":"), ensure_ascii=False) for event in make_events()]
    made = {
        "events.ndjson": "".join(line + "\n" for line in lines),
        "expected.json": json.dumps(expect(lines), indent=1, ensure_ascii=False) + "\n",
    }
    if "--check" in sys.argv:
        stale = [name for name, text in made.items() if (HERE / name).read_text(encoding="utf-8") != text]
        sys.exit(f"stale: {', '.join(stale)}; run make_sample.py" if stale else 0)
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="utf-8")
    print(f"{len(lines)} events")


if __name__ == "__main__":
    main()
