// Command shop is the lab's sample application, and the clients that order from it and check its orders.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/shop"
)

const usage = `shop takes orders over HTTP and answers one only when it is on disk.

  shop [serve]   serve; SHOP_SITE, SHOP_DATA, SHOP_LISTEN, SHOP_DATABASE_URL, POD_IP from the environment
  shop load      keep sending orders and log which were acknowledged
  shop status    print which site answers, and with which data
  shop verify    read all orders back and compare them with the log of a load
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	verb := "serve"
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "serve":
		c, err := shop.ConfigFrom(os.Getenv)
		if err != nil {
			return err
		}
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		return shop.Serve(ctx, c)
	case "load":
		return load(ctx, args, out)
	case "status":
		return status(ctx, args, out)
	case "verify":
		return verify(ctx, args, out)
	case "help", "-h", "--help":
		_, err := io.WriteString(out, usage)
		return err
	}
	return fmt.Errorf("unknown command %q\n\n%s", verb, usage)
}

func clientFlags(f *flag.FlagSet, o *shop.ClientOptions) {
	f.StringVar(&o.URL, "url", "http://shop.lab.test", "the shop")
	f.StringVar(&o.Resolver, "resolver", "", "`ip:port` of the resolver to ask (default: the machine's)")
	f.StringVar(&o.CAFile, "ca", "", "`file` with CA certificates to trust for https")
	f.IntVar(&o.HTTPPort, "port", 0, "connect to this port whatever the URL says (routers of a lab without root)")
	f.DurationVar(&o.Timeout, "timeout", 2*time.Second, "for one request")
}

func load(ctx context.Context, args []string, out io.Writer) error {
	var o shop.LoadOptions
	f := flag.NewFlagSet("shop load", flag.ContinueOnError)
	clientFlags(f, &o.ClientOptions)
	f.Float64Var(&o.Rate, "rate", 20, "orders a second")
	f.DurationVar(&o.Duration, "duration", 0, "how long (default: until SIGINT or SIGTERM)")
	f.StringVar(&o.Log, "log", "acked.jsonl", "`file` to append each acknowledged and each failed order to")
	f.StringVar(&o.Prefix, "prefix", fmt.Sprintf("load-%d-%d", time.Now().Unix(), os.Getpid()), "of the orders' ids; unique to this run")
	if err := f.Parse(args); err != nil {
		return err
	}
	r, err := shop.Load(ctx, o)
	if err != nil {
		return err
	}
	return writeJSON(out, r)
}

func status(ctx context.Context, args []string, out io.Writer) error {
	var o shop.ClientOptions
	f := flag.NewFlagSet("shop status", flag.ContinueOnError)
	clientFlags(f, &o)
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := shop.Ask(ctx, o)
	if err != nil {
		return err
	}
	return writeJSON(out, s)
}

func verify(ctx context.Context, args []string, out io.Writer) error {
	var o shop.ClientOptions
	f := flag.NewFlagSet("shop verify", flag.ContinueOnError)
	clientFlags(f, &o)
	log := f.String("log", "acked.jsonl", "the log of a load")
	format := f.String("o", "text", "text or json")
	wait := f.Duration("wait", 30*time.Second, "for the shop to answer")
	if err := f.Parse(args); err != nil {
		return err
	}
	v, err := shop.Verify(ctx, o, *log, *wait)
	if err != nil {
		return err
	}
	switch *format {
	case "json":
		return writeJSON(out, v)
	case "text":
		fmt.Fprintf(out, "%d acknowledged, %d recovered, %d lost; site %s, data %s\n", v.Acknowledged, v.Recovered, v.Lost, v.Site, v.DataID)
		for _, l := range v.LostOrders {
			fmt.Fprintf(out, "lost: %s, acknowledged %s by %s as number %d: %s\n", l.ID, l.AckedAt.Format(time.RFC3339Nano), l.Site, l.Sequence, l.Reason)
		}
		return nil
	}
	return fmt.Errorf("-o must be text or json, not %q", *format)
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
