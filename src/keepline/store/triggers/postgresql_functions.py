"""The functions of PostgreSQL's triggers."""

from __future__ import annotations

from dataclasses import dataclass

from keepline.store.triggers.guarded import FINALISED, FIXED_KEY, NO_REASON, SENT_FINAL, STAMPS
from keepline.store.triggers.postgresql_images import PLAIN
from keepline.store.triggers.postgresql_subjects import BODY as _LIVING


@dataclass(frozen=True, slots=True)
class Function:
    """A function without parameters; `settings` hold while it runs."""

    name: str
    body: str
    returns: str = "trigger"
    language: str = "plpgsql"
    settings: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        """Return the statement that makes it, or makes it again."""
        settings = "".join(
            f" SET {name} = '{value}'"
            for name, _, value in (each.partition("=") for each in self.settings)
        )
        return (
            f"CREATE OR REPLACE FUNCTION {self.name}() RETURNS {self.returns} "
            f"LANGUAGE {self.language} VOLATILE{settings} AS $${self.body}$$"
        )


# One expression, which PostgreSQL puts in the place of each call.
_RANDOM = """
    -- 64 of a version 4 UUID's random bits, less the sign: its first 12 and last 4 hex digits.
    SELECT ('x' || overlay(replace(gen_random_uuid()::text, '-', '') placing '' from 13 for 16)
        )::bit(64)::bigint & 9223372036854775807
"""

_APPEND_ONLY = """
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'KL001',
        MESSAGE = 'keepline: ' || TG_TABLE_NAME || ' is append-only';
END
"""

# Arguments: the columns that an erasure may change. A trigger's own change is one below this.
_KEPT = """
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF TG_TABLE_NAME = 'record_history' AND pg_trigger_depth() > 1 THEN RETURN NEW; END IF;
        IF current_setting('keepline.erasing', true) = 'on'
                AND to_jsonb(NEW) - TG_ARGV = to_jsonb(OLD) - TG_ARGV THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'KL001',
        MESSAGE = 'keepline: ' || TG_TABLE_NAME || ' is append-only';
END
"""

_NO_TRUNCATE = """
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'KL001',
        MESSAGE = 'keepline: ' || TG_TABLE_NAME || ' is never truncated';
END
"""

_SENT_FINAL = f"""
BEGIN
    IF OLD.state = 'sent' AND (TG_OP = 'DELETE'
            OR current_setting('keepline.erasing', true) IS DISTINCT FROM 'on') THEN
        RAISE EXCEPTION '{SENT_FINAL}' USING ERRCODE = 'KL001';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
"""

# Arguments: the type's name, 'finalised' or '', 'reason' or ''. A transaction's number comes
# again in a restored database, hence the look at when the feed's row was written.
_STAMP = f"""
DECLARE
    this_txn bigint := pg_current_xact_id()::text::bigint;
    again boolean := false;
    fed change_feed;
    known bigint;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.rev_txn = this_txn THEN
        -- Before its feed's row is written, other triggers may change the row again.
        SELECT * INTO fed FROM change_feed WHERE record_type = TG_ARGV[0]
            AND record_key = OLD.record_key AND revision = OLD.revision;
        -- Who else writes in this transaction, or for another reason, makes another revision.
        again := fed.id IS NULL OR (fed.changed_at >= transaction_timestamp()
            AND fed.actor IS NOT DISTINCT FROM NULLIF(current_setting('keepline.actor', true), '')
            AND NULLIF(current_setting('keepline.reason', true), '') IS NOT DISTINCT FROM (
                SELECT h.reason FROM record_history AS h WHERE h.record_type = TG_ARGV[0]
                AND h.record_key = OLD.record_key AND h.revision = OLD.revision
                AND h.subtable = '' AND h.sub_key = ''));
    END IF;
    IF TG_OP <> 'INSERT' AND current_setting('keepline.erasing', true) IS DISTINCT FROM 'on' THEN
        IF TG_ARGV[1] = 'finalised' THEN
            IF OLD.finalised AND (TG_OP = 'DELETE' OR NEW.finalised) THEN
                RAISE EXCEPTION '{FINALISED}' USING ERRCODE = 'KL002';
            END IF;
        END IF;
        IF TG_ARGV[2] = 'reason' AND NOT (again AND coalesce(fed.op, 'insert') = 'insert')
                AND NULLIF(current_setting('keepline.reason', true), '') IS NULL THEN
            RAISE EXCEPTION '{NO_REASON}' USING ERRCODE = 'KL003';
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.row_born, NEW.row_rev, NEW.revision, NEW.rev_txn) IS DISTINCT FROM
                (OLD.row_born, OLD.row_rev, OLD.revision, OLD.rev_txn) THEN
            RAISE EXCEPTION '{STAMPS}' USING ERRCODE = 'KL001';
        END IF;
        IF NEW.record_key <> OLD.record_key THEN
            RAISE EXCEPTION '{FIXED_KEY}' USING ERRCODE = 'KL001';
        END IF;
    END IF;
    IF NOT again THEN
        -- What the index knows; of a record from before a restore, what it may have got since.
        SELECT greatest(i.revision, (SELECT max(f.revision_floor) FROM restored AS f
            WHERE f.restored_at >= i.created_at)) INTO known FROM record_index AS i
        WHERE i.record_type = TG_ARGV[0] AND i.record_key = CASE TG_OP
            WHEN 'INSERT' THEN NEW.record_key ELSE OLD.record_key END;
    END IF;
    IF TG_OP = 'DELETE' THEN
        UPDATE record_index SET revision = known WHERE record_type = TG_ARGV[0]
            AND record_key = OLD.record_key AND revision < known;
        RETURN OLD;
    END IF;
    NEW.row_rev := keepline_token();
    IF TG_OP = 'INSERT' THEN
        NEW.row_born := NEW.row_rev;
        NEW.revision := 1 + greatest(known, (SELECT max(revision) FROM change_feed
            WHERE record_type = TG_ARGV[0] AND record_key = NEW.record_key), 0);
    ELSE
        IF OLD.row_born = 0 THEN NEW.row_born := NEW.row_rev; END IF;
        IF NOT again THEN NEW.revision := 1 + greatest(OLD.revision, known); END IF;
    END IF;
    NEW.rev_txn := this_txn;
    RETURN NEW;
END
"""

# Arguments: the type's name, 'anonymous' or '', the blobs' names with commas between.
_FEED = """
DECLARE
    this_txn bigint := pg_current_xact_id()::text::bigint;
    who text := NULLIF(current_setting('keepline.actor', true), '');
    why text := NULLIF(current_setting('keepline.reason', true), '');
    moment timestamptz := clock_timestamp();
    stamped text[] := ARRAY['record_key', 'subject_no', 'row_born', 'row_rev', 'revision',
        'rev_txn'];
    now_row jsonb;
    now_image jsonb;
    gone bigint;
    finished boolean;
    blob text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE record_index SET current = false, changed_at = moment,
            revision = greatest(OLD.revision, revision) + 1
        WHERE record_type = TG_ARGV[0] AND record_key = OLD.record_key RETURNING revision INTO gone;
        gone := coalesce(gone, OLD.revision + 1);
        INSERT INTO change_feed
            (record_type, record_key, revision, op, txid, actor, changed_at)
        VALUES (TG_ARGV[0], OLD.record_key, gone, 'delete', this_txn, who, moment);
        INSERT INTO record_history
            (record_type, record_key, revision, subtable, sub_key, op, reason, subject_no)
        VALUES (TG_ARGV[0], OLD.record_key, gone, '', '', 'delete', why,
            (to_jsonb(OLD) ->> 'subject_no')::bigint);
        RETURN NULL;
    END IF;
    now_row := to_jsonb(NEW);
    now_image := now_row - stamped;
    IF TG_ARGV[2] <> '' THEN
        FOREACH blob IN ARRAY string_to_array(TG_ARGV[2], ',') LOOP
            now_image := now_image || jsonb_build_object(blob, substr(now_image ->> blob, 3));
        END LOOP;
    END IF;
    IF TG_OP = 'INSERT' OR NEW.revision <> OLD.revision THEN
        INSERT INTO change_feed
            (record_type, record_key, revision, op, txid, actor, changed_at)
        VALUES (TG_ARGV[0], NEW.record_key, NEW.revision, lower(TG_OP), this_txn, who, moment);
        INSERT INTO record_history
            (record_type, record_key, revision, subtable, sub_key, op, image, reason, subject_no)
        VALUES (TG_ARGV[0], NEW.record_key, NEW.revision, '', '', lower(TG_OP), now_image, why,
            (now_row ->> 'subject_no')::bigint)
        ON CONFLICT (record_type, record_key, revision, subtable, sub_key) DO NOTHING;
        IF NOT FOUND THEN
            -- Another trigger changed the row again before this one was run.
            UPDATE record_history SET op = lower(TG_OP) WHERE record_type = TG_ARGV[0]
                AND record_key = NEW.record_key AND revision = NEW.revision
                AND subtable = '' AND sub_key = '';
            RETURN NULL;
        END IF;
    ELSIF now_row - stamped = to_jsonb(OLD) - stamped
            AND now_row -> 'subject_no' IS NOT DISTINCT FROM to_jsonb(OLD) -> 'subject_no' THEN
        RETURN NULL;
    ELSE
        INSERT INTO record_history AS h
            (record_type, record_key, revision, subtable, sub_key, op, image, reason, subject_no)
        VALUES (TG_ARGV[0], NEW.record_key, NEW.revision, '', '', 'update', now_image, why,
            (now_row ->> 'subject_no')::bigint)
        ON CONFLICT (record_type, record_key, revision, subtable, sub_key) DO UPDATE
        SET image = excluded.image, reason = excluded.reason, subject_no = excluded.subject_no;
    END IF;
    finished := coalesce((now_row ->> 'finalised')::boolean, false);
    IF TG_OP = 'UPDATE' THEN
        UPDATE record_index AS i SET revision = NEW.revision, group_name = NEW.group_name,
            subject_no = (now_row ->> 'subject_no')::bigint, changed_at = moment, current = true,
            finalised = finished, anonymous = TG_ARGV[1] = 'anonymous',
            version = i.version + (finished AND NOT (i.current AND i.finalised))::int
        WHERE i.record_type = TG_ARGV[0] AND i.record_key = NEW.record_key;
        IF FOUND THEN RETURN NULL; END IF;
    END IF;
    INSERT INTO record_index AS i
        (record_type, record_key, revision, group_name, subject_no, created_at, changed_at,
        current, finalised, anonymous, version)
    VALUES (TG_ARGV[0], NEW.record_key, NEW.revision, NEW.group_name,
        (now_row ->> 'subject_no')::bigint, moment, moment, true, finished,
        TG_ARGV[1] = 'anonymous', finished::int)
    ON CONFLICT (record_type, record_key) DO UPDATE
    SET revision = excluded.revision, group_name = excluded.group_name,
        subject_no = excluded.subject_no, changed_at = excluded.changed_at, current = true,
        created_at = excluded.created_at, finalised = excluded.finalised,
        anonymous = excluded.anonymous,
        version = i.version + (excluded.finalised AND NOT (i.current AND i.finalised))::int;
    RETURN NULL;
END
"""

# Arguments: the type's name, its table, the sub-table's name, its key, the blobs' names with
# commas between. A statement's records are locked in the order of their keys, changed once, and
# the sub-rows' history is written from the table: other triggers may have changed them again.
_SUBROWS = """
DECLARE
    touched text := CASE TG_OP
        WHEN 'INSERT' THEN format('SELECT record_key, %I AS sub_key FROM new_rows', TG_ARGV[3])
        WHEN 'DELETE' THEN format('SELECT record_key, %I AS sub_key FROM old_rows', TG_ARGV[3])
        ELSE format('SELECT record_key, %1$I AS sub_key FROM new_rows '
            'UNION SELECT record_key, %1$I FROM old_rows', TG_ARGV[3]) END;
    before text := CASE TG_OP WHEN 'INSERT' THEN 'false' ELSE format('EXISTS '
        '(SELECT FROM old_rows AS o WHERE o.record_key = k.record_key AND o.%I = k.sub_key)',
        TG_ARGV[3]) END;
    image text := format('to_jsonb(s) - ARRAY[''record_key'', %L]', TG_ARGV[3]);
    keys text[];
    found_rows bigint;
    changed_rows bigint;
    blob text;
BEGIN
    -- Keys as a value lead to index scans; joins of a statement's few rows may not.
    EXECUTE format('SELECT array_agg(DISTINCT record_key) FROM (%s) AS k', touched) INTO keys;
    IF keys IS NULL THEN RETURN NULL; END IF;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %I WHERE record_key = ANY ($1) '
        'ORDER BY record_key FOR NO KEY UPDATE) AS locked', TG_ARGV[1]) INTO found_rows USING keys;
    IF found_rows > 0 THEN
        EXECUTE format('UPDATE %I SET revision = revision WHERE record_key = ANY ($1)', TG_ARGV[1])
            USING keys;
        GET DIAGNOSTICS changed_rows = ROW_COUNT;
        IF changed_rows <> found_rows THEN
            RAISE EXCEPTION 'keepline: the record of a changed sub-row cannot be changed'
                USING ERRCODE = 'KL001';
        END IF;
    END IF;
    FOREACH blob IN ARRAY string_to_array(TG_ARGV[4], ',') LOOP
        image := image || format(' || jsonb_build_object(%1$L, encode(s.%1$I, ''hex''))', blob);
    END LOOP;
    -- A cascade comes here after the trigger of the record that goes, other ways before it.
    EXECUTE format('INSERT INTO record_history AS h (record_type, record_key, revision, subtable, '
        'sub_key, op, image, subject_no) SELECT $1, k.record_key, '
        'i.revision + (p.record_key IS NULL AND i.current)::int, $2, k.sub_key, '
        'CASE WHEN s.record_key IS NULL THEN ''delete'' WHEN %1$s '
        'THEN ''update'' ELSE ''insert'' END, CASE WHEN s.record_key IS NOT NULL '
        'THEN %2$s END, i.subject_no FROM (%3$s) AS k '
        'JOIN record_index AS i ON i.record_type = $1 AND i.record_key = k.record_key '
        'AND i.record_key = ANY ($3) '
        'LEFT JOIN %4$I AS p ON p.record_key = k.record_key AND p.record_key = ANY ($3) '
        'LEFT JOIN %5$I AS s ON s.record_key = k.record_key AND s.%6$I = k.sub_key '
        'AND s.record_key = ANY ($3) '
        'ON CONFLICT (record_type, record_key, revision, subtable, sub_key) DO UPDATE SET '
        'op = CASE WHEN h.op = ''insert'' AND excluded.op = ''update'' THEN ''insert'' '
        'WHEN h.op = ''delete'' AND excluded.op = ''insert'' THEN ''update'' '
        'ELSE excluded.op END, image = excluded.image, subject_no = excluded.subject_no',
        before, image, touched, TG_ARGV[1], TG_TABLE_NAME, TG_ARGV[3])
        USING TG_ARGV[0], TG_ARGV[2], keys;
    RETURN NULL;
END
"""

FUNCTIONS = (
    Function("keepline_token", _RANDOM, "bigint", "sql"),
    Function("keepline_append_only", _APPEND_ONLY),
    Function("keepline_kept", _KEPT),
    Function("keepline_no_truncate", _NO_TRUNCATE),
    Function("keepline_sent_final", _SENT_FINAL),
    Function("keepline_subject", _LIVING),
    Function("keepline_stamp", _STAMP),
    Function("keepline_feed", _FEED, settings=PLAIN),
    Function("keepline_subrows", _SUBROWS, settings=PLAIN),
)
