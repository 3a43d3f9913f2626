-- One agent's store, in a schema of its own. The same tables as in SQLite. What people chose the bytes of is BYTEA: text here
-- may not hold a zero, and its order depends on the database. Times are RFC 3339 text, due times milliseconds since 1970.
CREATE TABLE mark (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    epoch     BIGINT  NOT NULL,
    position  BIGINT  NOT NULL,
    published BIGINT  NOT NULL,
    sequence  BIGINT  NOT NULL,
    link      BYTEA   NOT NULL,
    config    BYTEA
);
INSERT INTO mark VALUES (1, 0, 0, 0, 0, decode(repeat('00', 32), 'hex'), NULL);

CREATE TABLE journal (
    sequence BIGINT  PRIMARY KEY,
    entity   BYTEA,
    emits    BOOLEAN NOT NULL,
    line     BYTEA   NOT NULL
);
-- Of an entity only the hash: an index entry must be small, and the key of an entity may not be.
CREATE INDEX journal_entity ON journal (sha256(entity), sequence) WHERE entity IS NOT NULL;
CREATE INDEX journal_emits ON journal (sequence) WHERE emits;

CREATE TABLE heads (
    entity  BYTEA  NOT NULL,
    version BIGINT NOT NULL,
    hash    BYTEA  NOT NULL,
    time    TEXT,
    state   BYTEA
);
CREATE UNIQUE INDEX heads_entity ON heads (sha256(entity));
CREATE INDEX heads_order ON heads (substring(entity FROM 1 FOR 1000));

-- Identities of decided events and the records that decided on them, for as long as the journal keeps them.
CREATE TABLE known (
    key      BYTEA  PRIMARY KEY,
    digest   BYTEA  NOT NULL,
    sequence BIGINT NOT NULL
);

-- Lone tries of events that are not decided yet.
CREATE TABLE attempts (
    key   BYTEA  PRIMARY KEY,
    count BIGINT NOT NULL
);

-- Events that were taken from the stream and wait for their turn.
CREATE TABLE parked (
    stream    BIGINT  PRIMARY KEY,
    entity    BYTEA   NOT NULL,
    key       BYTEA   NOT NULL,
    digest    BYTEA   NOT NULL,
    due       BIGINT,
    holds     BOOLEAN NOT NULL,
    cancelled BOOLEAN NOT NULL,
    attempts  BIGINT  NOT NULL,
    subject   BYTEA   NOT NULL,
    payload   BYTEA   NOT NULL
);
CREATE INDEX parked_due ON parked (due, stream) WHERE due IS NOT NULL;
CREATE INDEX parked_entity ON parked (sha256(entity), stream) WHERE holds;
CREATE INDEX parked_key ON parked (key);

-- Outputs that wait until they are due.
CREATE TABLE deferred (
    key      BYTEA  PRIMARY KEY,
    due      BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    subject  BYTEA  NOT NULL,
    payload  BYTEA  NOT NULL
);
CREATE INDEX deferred_due ON deferred (due, sequence, key);

-- Dead letters that nobody has dealt with.
CREATE TABLE dead (
    key      BYTEA  PRIMARY KEY,
    sequence BIGINT NOT NULL UNIQUE
);
