-- The broker's account whose streams the positions are of; unknown until the next start.
ALTER TABLE mark ADD COLUMN account TEXT;
