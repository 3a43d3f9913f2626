-- One agent's store. Hashes are 32-byte blobs; times are RFC 3339 text.
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
CREATE INDEX journal_emits ON journal (sequence) WHERE emits = 1;

CREATE TABLE heads (
    entity  TEXT    PRIMARY KEY,
    version INTEGER NOT NULL,
    hash    BLOB    NOT NULL,
    time    TEXT,
    state   TEXT
) STRICT, WITHOUT ROWID;

-- Identities of decided events, for as long as the journal keeps them.
CREATE TABLE known (
    key    BLOB PRIMARY KEY,
    digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Lone tries of events that are not decided yet.
CREATE TABLE attempts (
    key   BLOB    PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
