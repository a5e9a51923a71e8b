-- What is owed to a server in many rooms is found by walking the newest rows, and old ones are pruned.
CREATE INDEX outbound_by_position ON outbound (position);

-- The last position in the transaction that this server has not answered with 200 yet: the same
-- transaction is to be sent again, also after a restart. NULL if none is known to have failed.
ALTER TABLE destinations ADD COLUMN sending_upto BIGINT
