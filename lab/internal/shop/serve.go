package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"
)

// drainTime is less than the two seconds of grace that the sample's pod has.
const drainTime = 1500 * time.Millisecond

// Config is where a shop listens and keeps its orders.
type Config struct {
	Site        string
	DataDir     string
	Listen      string
	DatabaseURL string // PostgreSQL instead of DataDir
	Title       string // of the page
	Log         *slog.Logger
	Ready       func(net.Addr) // called once the port is open; may be nil
}

// ConfigFrom reads the environment.
func ConfigFrom(getenv func(string) string) (Config, error) {
	c := Config{Site: siteOf(getenv("SHOP_SITE")), DataDir: getenv("SHOP_DATA"), Listen: getenv("SHOP_LISTEN"), DatabaseURL: getenv("SHOP_DATABASE_URL")}
	if c.Site == "" {
		return c, errors.New("SHOP_SITE is not set: the shop must say which site answers (its pod takes it from spec.nodeName)")
	}
	if c.DataDir == "" && c.DatabaseURL == "" {
		c.DataDir = "/data"
	}
	c.Title = getenv("SHOP_TITLE")
	// A shop that cannot be paid takes no orders: it needs its Secret, and shows at once where one is missing.
	if file := getenv("SHOP_PAYMENT_KEY_FILE"); file != "" {
		info, err := os.Stat(file)
		if err == nil && info.Size() == 0 {
			err = errors.New("it is empty")
		}
		if err != nil {
			return c, fmt.Errorf("the payment key (SHOP_PAYMENT_KEY_FILE): %w", err)
		}
	}
	if c.Listen == "" {
		c.Listen = net.JoinHostPort(getenv("POD_IP"), "8080")
	}
	return c, nil
}

var nodeSuffix = regexp.MustCompile(`-node(-?[0-9]+)?$`)

// siteOf turns a node's name into its site's: nodes of the lab are named SITE or SITE-node. It is the
// node that tells, because whatever else says where a pod runs is restored along with it.
func siteOf(node string) string { return nodeSuffix.ReplaceAllString(node, "") }

// Serve takes orders until ctx is done, then lets requests that are under way end.
func Serve(ctx context.Context, c Config) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening for orders: %w", err)
	}
	g := newGate(c.DataDir, func(ctx context.Context) (Store, error) {
		if c.DatabaseURL != "" {
			return OpenPostgresStore(ctx, c.DatabaseURL, time.Now)
		}
		return OpenFileStore(ctx, c.DataDir, time.Now, c.Log)
	}, time.Now, c.Log)
	s := &server{site: c.Site, title: cmp.Or(c.Title, "shop"), gate: g, started: time.Now().UTC(), log: c.Log}
	if _, err := g.get(ctx); err == nil {
		c.Log.Info("taking orders", "site", c.Site, "listen", l.Addr().String())
	}
	if c.Ready != nil {
		c.Ready(l.Addr())
	}
	h := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(l) }()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("serving: %w", err), g.close())
	case <-ctx.Done():
	}
	// Bounded clean-up: ctx is done already.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := h.Shutdown(drain); err != nil {
		c.Log.Warn("requests were still under way at the end of the grace time", "error", err)
		err = h.Close()
		return errors.Join(err, g.close())
	}
	return g.close()
}
