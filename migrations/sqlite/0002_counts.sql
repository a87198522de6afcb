-- How many prices are open after the cycle: counted along, because a count reads them all.
ALTER TABLE cycles ADD COLUMN open_prices INTEGER;
