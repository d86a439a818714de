"""The triggers for PostgreSQL.

The actor is the transaction's setting `keepline.actor` (empty for a writer that goes around
the library). The stamping trigger's name sorts last, so that it sees what other BEFORE
triggers made of the row. A revision counts transactions: `rev_txn` remembers the last one.
"""

from __future__ import annotations

from keepline.model import RecordType
from keepline.store.triggers.sqlite import APPEND_ONLY

_RANDOM = """CREATE OR REPLACE FUNCTION keepline_token() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    -- 64 of a version 4 UUID's random bits, less the sign: its first 12 and last 4 hex digits.
    SELECT ('x' || left(u, 12) || right(u, 4))::bit(64)::bigint & 9223372036854775807
    FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS u) AS drawn
$$"""

_APPEND_ONLY = """CREATE OR REPLACE FUNCTION keepline_append_only()
    RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'KL001',
        MESSAGE = 'keepline: ' || TG_TABLE_NAME || ' is append-only';
END
$$"""

_NO_TRUNCATE = """CREATE OR REPLACE FUNCTION keepline_no_truncate()
    RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'KL001',
        MESSAGE = 'keepline: ' || TG_TABLE_NAME || ' is never truncated';
END
$$"""

_SENT_FINAL = """CREATE OR REPLACE FUNCTION keepline_sent_final()
    RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'sent' THEN
        RAISE EXCEPTION 'keepline: a sent row is never changed' USING ERRCODE = 'KL001';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$$"""

_STAMP = """CREATE OR REPLACE FUNCTION keepline_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    this_txn bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.row_born, NEW.row_rev, NEW.revision, NEW.rev_txn) IS DISTINCT FROM
                (OLD.row_born, OLD.row_rev, OLD.revision, OLD.rev_txn) THEN
            RAISE EXCEPTION 'keepline: the database stamps tokens and revisions'
                USING ERRCODE = 'KL001';
        END IF;
        IF NEW.record_key <> OLD.record_key THEN
            RAISE EXCEPTION 'keepline: a record never changes its key' USING ERRCODE = 'KL001';
        END IF;
    END IF;
    NEW.row_rev := keepline_token();
    IF TG_OP = 'INSERT' THEN
        NEW.row_born := NEW.row_rev;
        NEW.revision := 1 + coalesce((SELECT max(revision) FROM change_feed
            WHERE record_type = TG_ARGV[0] AND record_key = NEW.record_key), 0);
    ELSIF OLD.rev_txn IS DISTINCT FROM this_txn THEN
        NEW.revision := OLD.revision + 1;
    END IF;
    NEW.rev_txn := this_txn;
    RETURN NEW;
END
$$"""

_FEED = """CREATE OR REPLACE FUNCTION keepline_feed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    this_txn bigint := pg_current_xact_id()::text::bigint;
    who text := NULLIF(current_setting('keepline.actor', true), '');
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO change_feed
            (record_type, record_key, revision, op, txid, actor, changed_at)
        VALUES (TG_ARGV[0], OLD.record_key, OLD.revision + 1, 'delete', this_txn, who,
            clock_timestamp());
    ELSIF TG_OP = 'INSERT' OR NEW.revision <> OLD.revision THEN
        INSERT INTO change_feed
            (record_type, record_key, revision, op, txid, actor, changed_at)
        VALUES (TG_ARGV[0], NEW.record_key, NEW.revision, lower(TG_OP), this_txn, who,
            clock_timestamp());
    END IF;
    RETURN NULL;
END
$$"""

_TOUCH = """CREATE OR REPLACE FUNCTION keepline_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        EXECUTE 'UPDATE ' || quote_ident(TG_ARGV[0]) ||
            ' SET revision = revision WHERE record_key = $1' USING OLD.record_key;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.record_key <> OLD.record_key) THEN
        EXECUTE 'UPDATE ' || quote_ident(TG_ARGV[0]) ||
            ' SET revision = revision WHERE record_key = $1' USING NEW.record_key;
    END IF;
    RETURN NULL;
END
$$"""


def fixed() -> list[str]:
    """Return the statements for the fixed tables, in order; they can be run again."""
    statements = [_RANDOM, _APPEND_ONLY, _NO_TRUNCATE, _SENT_FINAL, _STAMP, _FEED, _TOUCH]
    statements += [
        f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION keepline_append_only()"
        for table in APPEND_ONLY
    ]
    statements += [_no_truncate(table) for table in (*APPEND_ONLY, "sent_log")]
    statements.append(
        "CREATE OR REPLACE TRIGGER sent_log_final BEFORE UPDATE OR DELETE ON sent_log "
        "FOR EACH ROW EXECUTE FUNCTION keepline_sent_final()"
    )
    return statements


def _no_truncate(table: str) -> str:
    # Truncating fires no row trigger: rows would go without a trace.
    return (
        f"CREATE OR REPLACE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION keepline_no_truncate()"
    )


def record(declared: RecordType) -> list[str]:
    """Return the statements for a record type's tables, in order; they can be run again."""
    table = declared.table_name
    statements = [
        (
            f"CREATE OR REPLACE TRIGGER zz_keepline_stamp BEFORE INSERT OR UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION keepline_stamp('{declared.name}')"
        ),
        (
            "CREATE OR REPLACE TRIGGER zz_keepline_feed AFTER INSERT OR UPDATE OR DELETE "
            f"ON {table} FOR EACH ROW EXECUTE FUNCTION keepline_feed('{declared.name}')"
        ),
    ]
    statements += [
        "CREATE OR REPLACE TRIGGER zz_keepline_touch AFTER INSERT OR UPDATE OR DELETE "
        f"ON {declared.subtable_name(subtable)} "
        f"FOR EACH ROW EXECUTE FUNCTION keepline_touch('{table}')"
        for subtable in declared.subtables
    ]
    children = [declared.subtable_name(subtable) for subtable in declared.subtables]
    statements += [_no_truncate(each) for each in (table, *children)]
    return statements
