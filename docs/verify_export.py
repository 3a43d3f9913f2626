#!/usr/bin/env python3
"""Verifies what `rhizon export AGENT` has written: both hash chains and every number. Prints the root. python3 verify_export.py FILE"""
import hashlib, json, re, sys
def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()
def root(leaves):  # the Merkle tree hash of RFC 6962, section 2.1
    if len(leaves) < 2: return leaves[0] if leaves else sha()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1", root(leaves[:split]), root(leaves[split:]))
number, link, heads = 0, bytes(32), {}
def check(what, good):
    if not good: sys.exit(f"record {number}: {what} is wrong")
for number, line in enumerate(open(sys.argv[1], "rb"), 1):
    check("the end of the line", line.endswith(b"}\n"))
    place = re.match(rb'{"link":"([0-9a-f]{64})","hash":"([0-9a-f]{64})","size":(\d+),"(decided|config)":', line)
    check("the form", place)
    body = line[place.end():place.end() + int(place[3])]; part = sha(body)
    link = sha(link, line[75:place.end()], part, line[place.end() + len(body):-1])  # the audit chain: all but the link
    check("the link", link.hex().encode() == place[1])
    check("the sequence", json.loads(line)["observed"]["sequence"] == number)
    if place[4] == b"config":
        check("the hash", part.hex().encode() == place[2])
        continue
    decided = json.loads(body)
    version, before = heads.get(decided["entity"], (0, bytes(32)))
    check("the version", decided["before"] == version <= decided["after"])
    heads[decided["entity"]] = decided["after"], sha(before, part)  # the entity chain: what was decided
    check("the hash", heads[decided["entity"]][1].hex().encode() == place[2])
entities = sorted((entity.encode(), version, head) for entity, (version, head) in heads.items())
leaves = [sha(b"\0", len(e).to_bytes(8, "big"), e, version.to_bytes(8, "big"), head) for e, version, head in entities]
print(f"{number} records of {len(heads)} entities are sound; root {root(leaves).hex()}")
