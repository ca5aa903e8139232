// What an application with JDBC does: connects, prepares, copies, fails, cancels. Prints what came of it.
// Arguments: a user, a password; then, any number of times, a JDBC URL and a table (n int, t text) for its rows.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class JdbcClient {
  interface Act {
    void run() throws SQLException;
  }

  static String sqlstate(Act act) {
    try {
      act.run();
    } catch (SQLException error) {
      return error.getSQLState();
    }
    return null;
  }

  public static void main(String[] args) throws Exception {
    for (int i = 2; i < args.length; i += 2) {
      use(args[i], args[0], args[1], args[i + 1]);
    }
  }

  static void use(String url, String user, String password, String table) throws Exception {
    StringBuilder lines = new StringBuilder();
    for (int n = 0; n < 1000; n++) {
      lines.append(n).append("\trow ").append(n).append('\n');
    }
    // From its second use on, a statement is prepared in the protocol, under a name.
    try (Connection connection = DriverManager.getConnection(url + "&prepareThreshold=1", user, password)) {
      StringBuilder doubled = new StringBuilder();
      try (PreparedStatement twice = connection.prepareStatement("select ?::int * 2")) {
        for (int n = 0; n < 5; n++) {
          twice.setInt(1, n);
          try (ResultSet rows = twice.executeQuery()) {
            rows.next();
            doubled.append(n == 0 ? "" : ",").append(rows.getInt(1));
          }
        }
      }
      CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
      copies.copyIn("copy " + table + " from stdin", new StringReader(lines.toString()));
      StringWriter out = new StringWriter();
      copies.copyOut("copy " + table + " to stdout", out);
      Statement statement = connection.createStatement();
      String failed = sqlstate(() -> statement.execute("select 1 / 0"));
      // The driver cancels when the timeout is over.
      statement.setQueryTimeout(1);
      String stopped = sqlstate(() -> statement.execute("select pg_sleep(100)"));
      statement.setQueryTimeout(0);
      String after;
      try (ResultSet rows = statement.executeQuery("select 'still here'")) {
        rows.next();
        after = rows.getString(1);
      }
      String refusal = sqlstate(() -> DriverManager.getConnection(url, user, "wrong").close());
      System.out.printf(
          "{\"doubled\":[%s],\"copied\":%b,\"failed\":\"%s\",\"stopped\":\"%s\",\"after\":\"%s\",\"refusal\":\"%s\"}%n",
          doubled, out.toString().contentEquals(lines), failed, stopped, after, refusal);
    }
  }
}
