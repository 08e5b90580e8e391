package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.dev/lifeboat/internal/dr"
)

const (
	connectLimit = 15 * time.Second // to a server that answers
	queryLimit   = 30 * time.Second
)

// Server is how one PostgreSQL server is reached.
type Server struct {
	Name        string // for people: "service shop/orders-db at site east"
	Host        string // that its certificate names
	Dial        func(ctx context.Context) (net.Conn, error)
	Credentials Credentials
}

// Credentials are what a Secret holds of a role that may replicate.
type Credentials struct {
	User, Password string
	Database       string // where the beacon's table is; default: postgres
	// TLS is disable, prefer, require or verify-full. Left out: verify-full with a CA, else prefer.
	TLS string
	CA  []byte // PEM
}

// Keys of a Secret.
const (
	keyUser     = "username"
	keyPassword = "password"
	keyDatabase = "database"
	keyTLS      = "sslmode"
	keyCA       = "ca.crt"
)

// readCredentials reads what a Secret holds.
func readCredentials(data map[string][]byte) (Credentials, error) {
	text := func(key string) string { return strings.TrimSpace(string(data[key])) }
	c := Credentials{User: text(keyUser), Password: strings.TrimRight(string(data[keyPassword]), "\r\n"), Database: text(keyDatabase), TLS: text(keyTLS), CA: data[keyCA]}
	if c.User == "" {
		return c, fmt.Errorf("it has no key %q", keyUser)
	}
	if c.Database == "" {
		c.Database = "postgres"
	}
	if c.TLS == "" {
		c.TLS = "prefer"
		if len(c.CA) > 0 {
			c.TLS = "verify-full"
		}
	}
	switch c.TLS {
	case "disable", "prefer", "require":
	case "verify-full":
		if !x509.NewCertPool().AppendCertsFromPEM(c.CA) {
			return c, fmt.Errorf("sslmode verify-full needs certificates in key %q", keyCA)
		}
	default:
		return c, fmt.Errorf("sslmode %q is none of disable, prefer, require and verify-full", c.TLS)
	}
	return c, nil
}

// config is made without what the environment and files of the user say to libpq.
func (s *Server) config(replication bool) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig("host=server port=5432 user=nobody password=none dbname=none sslmode=disable sslrootcert='' sslcert='' sslkey='' passfile='' target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	c := s.Credentials
	config.Host, config.User, config.Password, config.Database = s.Host, c.User, c.Password, c.Database
	config.RuntimeParams = map[string]string{"application_name": "lifeboat", "datestyle": "ISO", "timezone": "UTC"}
	if replication {
		config.RuntimeParams["replication"] = "database"
	}
	config.ConnectTimeout = connectLimit
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{s.Host}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx) }
	config.Fallbacks = nil
	switch c.TLS {
	case "prefer":
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true, ServerName: s.Host}
		config.Fallbacks = []*pgconn.FallbackConfig{{Host: s.Host, Port: config.Port}}
	case "require":
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true, ServerName: s.Host}
	case "verify-full":
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.CA)
		config.TLSConfig = &tls.Config{RootCAs: roots, ServerName: s.Host}
	}
	return config, nil
}

// connect opens a connection, for replication or for SQL alone.
func (s *Server) connect(ctx context.Context, replication bool) (*pgconn.PgConn, error) {
	config, err := s.config(replication)
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.failed(err, "cannot connect to PostgreSQL, %s, as %s", s.Name, s.Credentials.User)
	}
	return conn, nil
}

// closing ends a connection, within bounds even when the work was called off.
func closing(ctx context.Context, c *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = c.Close(ctx) // the server notices in any case
}

// Codes of PostgreSQL's errors.
const (
	codeWrongPassword  = "28P01"
	codeNoAuthority    = "28000"
	codeNoDatabase     = "3D000"
	codeNoPrivilege    = "42501"
	codeUndefinedFile  = "58P01"
	codeTooManyClients = "53300"
	codeLimitReached   = "53400"
	codeShutdown       = "57P01"
	codeCrash          = "57P02"
	codeNotYet         = "57P03" // it starts, recovers or ends
	codeNoTable        = "42P01"
	codeSchemaExists   = "42P06"
	codeTableExists    = "42P07"
	codeNotUnique      = "23505"
)

// code is PostgreSQL's for an error, or empty.
func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// failed gives an error of the server a class and a remedy. pgconn's errors hold no password.
func (s *Server) failed(err error, format string, args ...any) error {
	var known *dr.Error
	if errors.As(err, &known) {
		return err
	}
	class, next := dr.ClassUnreachable, "Check that the server runs and answers; the command can then be run again."
	switch code(err) {
	case codeShutdown, codeCrash, codeNotYet:
	case "":
		if errors.Is(err, context.Canceled) {
			class, next = dr.ClassInterrupted, ""
		}
	case codeWrongPassword:
		class, next = dr.ClassDenied, "Correct username and password in the Secret that the fleet file names."
	case codeNoAuthority:
		class, next = dr.ClassDenied, fmt.Sprintf("Let role %s log in, give it REPLICATION (ALTER ROLE %s REPLICATION), and let pg_hba.conf accept it.", s.Credentials.User, s.Credentials.User)
	case codeNoDatabase:
		class, next = dr.ClassUsage, "Name a database that exists in the Secret's key database."
	case codeNoPrivilege:
		class, next = dr.ClassDenied, fmt.Sprintf("Give role %s REPLICATION, and CREATE on database %s (for the beacon's schema).", s.Credentials.User, s.Credentials.Database)
	case codeTooManyClients, codeLimitReached:
		class, next = dr.ClassBlocked, "Raise max_connections, max_wal_senders or max_replication_slots of the server."
	default:
		class, next = dr.ClassInternal, "Look into the server's log."
	}
	return dr.Errorf(class, err, next, format, args...)
}

// query runs statements in a connection and returns the last one's rows.
func query(ctx context.Context, c *pgconn.PgConn, sql string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, r := range results {
		if r.Err != nil {
			return nil, r.Err
		}
		rows = rows[:0]
		for _, raw := range r.Rows {
			row := make([]string, len(raw))
			for i, v := range raw {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// queryRow is query for statements of which the last gives one row.
func queryRow(ctx context.Context, c *pgconn.PgConn, sql string, columns int) ([]string, error) {
	rows, err := query(ctx, c, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) < columns {
		return nil, fmt.Errorf("the server gave %d rows where one of %d columns is expected", len(rows), columns)
	}
	return rows[0], nil
}

// quote writes a string constant; standard_conforming_strings has been on since PostgreSQL 9.1.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
