-- Events and entities reach their indexes later than their records, many together: all records up to `swept` are there.
ALTER TABLE mark ADD COLUMN swept INTEGER NOT NULL DEFAULT 0;
UPDATE mark SET swept = sequence;
CREATE TABLE by_entity (
    entity   TEXT    NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (entity, sequence)
) STRICT, WITHOUT ROWID;
INSERT INTO by_entity SELECT entity, sequence FROM journal WHERE entity IS NOT NULL ORDER BY entity, sequence;

-- Lines that follow each other are one row, with the sequence of the first and a newline between them.
DROP INDEX journal_entity;
ALTER TABLE journal RENAME TO journal_of_rows;
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY,
    lines    BLOB    NOT NULL
) STRICT;
INSERT INTO journal SELECT sequence, line FROM journal_of_rows ORDER BY sequence;
DROP TABLE journal_of_rows;
