-- Events and entities reach their indexes later than their records, many together: all records up to `swept` are there.
ALTER TABLE mark ADD COLUMN swept INTEGER NOT NULL DEFAULT 0;
UPDATE mark SET swept = sequence;

DROP INDEX journal_entity;
CREATE TABLE by_entity (
    entity   TEXT    NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (entity, sequence)
) STRICT, WITHOUT ROWID;
INSERT INTO by_entity SELECT entity, sequence FROM journal WHERE entity IS NOT NULL ORDER BY entity, sequence;
