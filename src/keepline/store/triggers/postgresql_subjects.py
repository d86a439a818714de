"""The function of PostgreSQL's triggers that keep rows about erased subjects out."""

from __future__ import annotations

from keepline.store.triggers.guarded import ERASED

#: The trigger's name, and when it fires: after the others, which may change the row.
NAME = "zz_keepline_subject"
WHEN = "AFTER INSERT OR UPDATE FOR EACH ROW"

# An erasure holds the subject's row from its beginning: it is waited for, and waits for this.
BODY = f"""
DECLARE
    erased timestamptz;
BEGIN
    IF NEW.subject_no IS NULL THEN RETURN NULL; END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.subject_no IS NOT DISTINCT FROM OLD.subject_no THEN RETURN NULL; END IF;
    END IF;
    SELECT erased_at INTO erased FROM subject WHERE number = NEW.subject_no FOR KEY SHARE;
    IF erased IS NOT NULL THEN
        RAISE EXCEPTION '{ERASED}' USING ERRCODE = 'KL004';
    END IF;
    RETURN NULL;
END
"""
