-- One agent's store. Hashes are 32-byte blobs; times are RFC 3339 text, due times milliseconds since 1970.
CREATE TABLE mark (
    only      INTEGER PRIMARY KEY CHECK (only = 1),
    epoch     INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    published INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    link      BLOB    NOT NULL,
    config    BLOB
) STRICT;
INSERT INTO mark VALUES (1, 0, 0, 0, 0, zeroblob(32), NULL);

CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY,
    entity   TEXT,
    emits    INTEGER NOT NULL,
    line     BLOB    NOT NULL
) STRICT;
CREATE INDEX journal_entity ON journal (entity, sequence) WHERE entity IS NOT NULL;

CREATE TABLE heads (
    entity  TEXT    PRIMARY KEY,
    version INTEGER NOT NULL,
    hash    BLOB    NOT NULL,
    time    TEXT,
    state   TEXT
) STRICT, WITHOUT ROWID;

-- Identities of decided events and the records that decided on them, for as long as the journal keeps them.
CREATE TABLE known (
    key      BLOB    PRIMARY KEY,
    digest   BLOB    NOT NULL,
    sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Lone tries of events that are not decided yet.
CREATE TABLE attempts (
    key   BLOB    PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that were taken from the stream and wait for their turn.
CREATE TABLE parked (
    stream    INTEGER PRIMARY KEY,
    entity    TEXT    NOT NULL,
    key       BLOB    NOT NULL,
    digest    BLOB    NOT NULL,
    due       INTEGER,
    holds     INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    attempts  INTEGER NOT NULL,
    subject   TEXT    NOT NULL,
    payload   BLOB    NOT NULL
) STRICT;
CREATE INDEX parked_due ON parked (due, stream) WHERE due IS NOT NULL;
CREATE INDEX parked_entity ON parked (entity, stream) WHERE holds = 1;
CREATE INDEX parked_key ON parked (key);

-- Outputs that wait until they are due.
CREATE TABLE deferred (
    key      BLOB    PRIMARY KEY,
    due      INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    subject  TEXT    NOT NULL,
    payload  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX deferred_due ON deferred (due, sequence, key);

-- Dead letters that nobody has dealt with.
CREATE TABLE dead (
    key      BLOB    PRIMARY KEY,
    sequence INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
