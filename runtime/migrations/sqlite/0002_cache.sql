-- A file can be the cache of a journal elsewhere: the stream sequence of the last message that is in it.
ALTER TABLE mark ADD COLUMN applied INTEGER NOT NULL DEFAULT 0;
