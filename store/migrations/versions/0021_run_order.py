"""keep the order of runs when a process of an earlier version, which ignores runs.after_run, inserts or claims one"""

from alembic import op

revision = "0021"
down_revision = "0020"

UNFINISHED = "status IN ('queued', 'running', 'waiting')"

# Both functions return null to skip the row. An earlier version then acts as if the index of unfinished runs, or
# another worker, had been faster.
REFUSE_SECOND_RUN = f"""
    CREATE FUNCTION refuse_second_run() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM runs WHERE source = NEW.source AND kind = NEW.kind AND after_run IS NOT NULL
                      AND {UNFINISHED}) THEN
            RETURN NULL;
        END IF;
        RETURN NEW;
    END $$
"""
# A reconciler of an earlier version publishes a run that must wait, again and again. If all these publications counted,
# the next one could come long after the wait.
WAIT_FOR_EARLIER_RUN = f"""
    CREATE FUNCTION wait_for_earlier_run() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM runs WHERE id = NEW.after_run AND {UNFINISHED}) THEN
            IF NEW.status = 'running' THEN
                RETURN NULL;
            END IF;
            NEW.publish_count := least(NEW.publish_count, 1);
        END IF;
        RETURN NEW;
    END $$
"""


def upgrade() -> None:
    op.execute(REFUSE_SECOND_RUN)
    op.execute(WAIT_FOR_EARLIER_RUN)
    op.execute(
        "CREATE TRIGGER runs_one_unfinished BEFORE INSERT ON runs FOR EACH ROW"
        f" WHEN (NEW.kind IN ('live', 'replay') AND NEW.after_run IS NULL AND NEW.{UNFINISHED})"
        " EXECUTE FUNCTION refuse_second_run()"
    )
    op.execute(
        "CREATE TRIGGER runs_in_order BEFORE UPDATE OF status, publish_count ON runs FOR EACH ROW"
        " WHEN (NEW.after_run IS NOT NULL) EXECUTE FUNCTION wait_for_earlier_run()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER runs_in_order ON runs")
    op.execute("DROP TRIGGER runs_one_unfinished ON runs")
    op.execute("DROP FUNCTION wait_for_earlier_run()")
    op.execute("DROP FUNCTION refuse_second_run()")
