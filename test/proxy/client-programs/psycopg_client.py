"""What an application with psycopg 2 or 3 does: connects, prepares, copies, fails, cancels. Prints what came of it.

Arguments: psycopg2 or psycopg; a conninfo; a table (n int, t text) for its rows.
"""

import io
import json
import sys
import threading

driver, conninfo, table = sys.argv[1:]
lines = "".join(f"{n}\trow {n}\n" for n in range(1000))


def sqlstate(act):
    try:
        act()
    except Exception as error:
        return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or str(error)
    return None


def cancelled(connection, cursor):
    """Cancels when the statement has been seen at work."""
    done = threading.Event()

    def cancel():
        while not done.wait(0.2):
            connection.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        return sqlstate(lambda: cursor.execute("select pg_sleep(100)"))
    finally:
        done.set()
        thread.join()


def with_psycopg2():
    import psycopg2

    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    cursor = connection.cursor()
    doubled = []
    cursor.execute("prepare twice(int) as select $1 * 2")
    for n in range(5):
        cursor.execute("execute twice(%s)", (n,))
        doubled.append(cursor.fetchone()[0])
    cursor.execute("deallocate twice")
    cursor.copy_expert(f"copy {table} from stdin", io.StringIO(lines))
    out = io.StringIO()
    cursor.copy_expert(f"copy {table} to stdout", out)
    refused = "password authentication failed"
    wrong = lambda: psycopg2.connect(conninfo, password="wrong")
    try:
        wrong()
        refusal = None
    except psycopg2.OperationalError as error:
        refusal = refused if refused in str(error) else str(error)
    return connection, cursor, doubled, out.getvalue(), refusal


def with_psycopg():
    import psycopg

    # The second time a statement comes, it is prepared in the protocol.
    connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=1)
    cursor = connection.cursor()
    doubled = [cursor.execute("select %s::int * 2", (n,)).fetchone()[0] for n in range(5)]
    with cursor.copy(f"copy {table} from stdin") as copy:
        copy.write(lines)
    with cursor.copy(f"copy {table} to stdout") as copy:
        out = "".join(bytes(part).decode() for part in copy)
    refused = "password authentication failed"
    try:
        psycopg.connect(conninfo, password="wrong")
        refusal = None
    except psycopg.OperationalError as error:
        refusal = refused if refused in str(error) else str(error)
    return connection, cursor, doubled, out, refusal


connection, cursor, doubled, out, refusal = (
    with_psycopg2() if driver == "psycopg2" else with_psycopg()
)
failed = sqlstate(lambda: cursor.execute("select 1 / 0"))
stopped = cancelled(connection, cursor)
cursor.execute("select 'still here'")
print(
    json.dumps(
        {
            "doubled": doubled,
            "copied": out == lines,
            "failed": failed,
            "stopped": stopped,
            "after": cursor.fetchone()[0],
            "refusal": refusal,
        }
    )
)
connection.close()
