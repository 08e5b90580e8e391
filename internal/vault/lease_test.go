package vault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// gate is a store that can be cut off, as by a network partition: calls hang until their context ends.
type gate struct {
	blob.Store
	cut atomic.Bool
	// after lets a put happen and then fail, as when its answer is lost.
	after atomic.Bool
}

func (g *gate) pass(ctx context.Context) error {
	if g.cut.Load() {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

func (g *gate) Put(ctx context.Context, name string, data []byte, c blob.Condition) (blob.Version, error) {
	if err := g.pass(ctx); err != nil {
		return "", err
	}
	v, err := g.Store.Put(ctx, name, data, c)
	if g.after.Load() {
		return "", errors.New("the answer was lost")
	}
	return v, err
}

func (g *gate) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	if err := g.pass(ctx); err != nil {
		return blob.Object{}, err
	}
	return g.Store.Get(ctx, name, r)
}

func gated(t testing.TB, store blob.Store) (*Vault, *gate) {
	t.Helper()
	g := &gate{Store: store}
	return openAgain(t, g), g
}

func request(holder string) LeaseRequest {
	return LeaseRequest{Application: "shop", Holder: holder, By: holder + "@host", Duration: 15 * time.Second, Wait: true}
}

func acquire(t *testing.T, v *Vault, holder string) (context.Context, *Lease) {
	t.Helper()
	ctx, l, err := v.AcquireLease(t.Context(), request(holder))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, l
}

func release(t *testing.T, l *Lease) {
	t.Helper()
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLeaseIsRenewedAndReleased(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, l := acquire(t, v, "one")
		epoch, err := l.Claim(t.Context(), "east", "run-1", "")
		if err != nil || epoch != 1 {
			t.Fatal(epoch, err)
		}
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Fatalf("lost while nothing was wrong: %v", context.Cause(ctx))
		}
		if err := l.Check(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if err := l.Check(t.Context(), 2); !errors.Is(err, dr.ErrLeaseLost) {
			t.Errorf("another epoch: %v", err)
		}
		o, _, _ := v.Ownership(t.Context(), "shop")
		if o.Lease == nil || o.Lease.Holder != "one" || o.Lease.Sequence < 700 {
			t.Errorf("after an hour: %+v", o.Lease)
		}
		release(t, l)
		if !errors.Is(context.Cause(ctx), dr.ErrLeaseLost) {
			t.Errorf("after the release: %v", context.Cause(ctx))
		}
		o, _, err = v.Ownership(t.Context(), "shop")
		if err != nil || o.Lease != nil || o.Epoch != 1 || o.Site != "east" || o.Run != "run-1" {
			t.Errorf("after the release: %+v, %v", o, err)
		}
		if _, err := l.Claim(t.Context(), "west", "run-2", ""); !errors.Is(err, dr.ErrLeaseLost) {
			t.Errorf("claim after the release: %v", err)
		}
		if err := l.Check(t.Context(), 1); !errors.Is(err, dr.ErrLeaseLost) {
			t.Errorf("check after the release: %v", err)
		}
		release(t, l)

		start := time.Now()
		_, l = acquire(t, v, "two")
		if waited := time.Since(start); waited > 0 {
			t.Errorf("waited %v for a lease that was released", waited)
		}
		if epoch, err := l.Claim(t.Context(), "west", "run-2", "east is gone"); err != nil || epoch != 2 {
			t.Error(epoch, err)
		}
		if epoch, err := l.Claim(t.Context(), "west", "run-2", "east is gone"); err != nil || epoch != 2 {
			t.Errorf("the same claim again: %d, %v", epoch, err)
		}
		if o := l.Ownership(); o.BreakGlass != "east is gone" || o.Epoch != 2 || o.Site != "west" {
			t.Errorf("%+v", o)
		}
		release(t, l)
	})
}

func TestAnotherHolderIsAConflict(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	synctest.Test(t, func(t *testing.T) {
		_, l := acquire(t, v, "one")
		req := request("two")
		req.Wait = false
		_, _, err := v.AcquireLease(t.Context(), req)
		wantDR(t, err, dr.ClassConflict, nil, "one", "one@host", "shop")

		// One who waits is told for whom, and stops when its context says so.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req.Wait = true
		said := 0
		req.Progress = func(w LeaseWait) {
			if said++; w.Holder != "one" || w.Left <= 0 || w.Left > 15*time.Second {
				t.Errorf("%+v", w)
			}
		}
		_, _, err = v.AcquireLease(ctx, req)
		wantDR(t, err, dr.ClassConflict, context.DeadlineExceeded, "one")
		if said < 10 {
			t.Errorf("told %d times in a minute", said)
		}
		if err := l.Check(t.Context(), 0); err != nil {
			t.Error(err)
		}
		release(t, l)
	})
}

// TestAHolderThatIsCutOff learns that it lost before anybody can take over.
func TestAHolderThatIsCutOff(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	mine, network := gated(t, v.store)
	synctest.Test(t, func(t *testing.T) {
		ctx, l := acquire(t, mine, "one")
		if _, err := l.Claim(t.Context(), "east", "run-1", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Minute)
		network.cut.Store(true)
		cutAt := time.Now()
		var lostAt atomic.Pointer[time.Time]
		stop := context.AfterFunc(ctx, func() { now := time.Now(); lostAt.Store(&now) })
		defer stop()
		_, other := acquire(t, v, "two")
		took := time.Since(cutAt)
		if lostAt.Load() == nil {
			t.Fatal("two holders at once")
		}
		if lost := lostAt.Load().Sub(cutAt); lost > 10*time.Second+500*time.Millisecond {
			t.Errorf("learned after %v", lost)
		}
		if took < 15*time.Second || took > 17*time.Second {
			t.Errorf("taken over after %v", took)
		}
		if !errors.Is(context.Cause(ctx), dr.ErrLeaseLost) {
			t.Error(context.Cause(ctx))
		}
		if o := other.Ownership(); o.Epoch != 1 || o.Site != "east" || o.Lease.Sequence < 80 {
			t.Errorf("taken over: %+v %+v", o, o.Lease)
		}
		network.cut.Store(false)
		if _, err := l.Claim(t.Context(), "west", "run-1", ""); !errors.Is(err, dr.ErrLeaseLost) {
			t.Errorf("claim of a loser: %v", err)
		}
		release(t, l)
		if err := other.Check(t.Context(), 1); err != nil {
			t.Errorf("the loser's release took the lease of the winner: %v", err)
		}
		release(t, other)
	})
}

// TestAShortOutageIsSurvived: renewals that fail are tried again while there is time.
func TestAShortOutageIsSurvived(t *testing.T) {
	t.Parallel()
	v, network := gated(t, newVault(t).store)
	synctest.Test(t, func(t *testing.T) {
		ctx, l := acquire(t, v, "one")
		for range 10 {
			time.Sleep(20 * time.Second)
			network.after.Store(true) // writes happen and their answers are lost
			time.Sleep(4 * time.Second)
			network.after.Store(false)
		}
		if ctx.Err() != nil {
			t.Error(context.Cause(ctx))
		}
		release(t, l)
	})
}

// TestALostAnswerOfAClaim does not raise the epoch twice.
func TestALostAnswerOfAClaim(t *testing.T) {
	t.Parallel()
	v, network := gated(t, newVault(t).store)
	synctest.Test(t, func(t *testing.T) {
		_, l := acquire(t, v, "one")
		network.after.Store(true)
		if _, err := l.Claim(t.Context(), "west", "run-1", ""); err == nil {
			t.Error("no error")
		}
		network.after.Store(false)
		if epoch, err := l.Claim(t.Context(), "west", "run-1", ""); err != nil || epoch != 1 {
			t.Errorf("epoch %d, %v", epoch, err)
		}
		release(t, l)
	})
}

func TestSomebodyTookIt(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, l := acquire(t, v, "one")
		o, token, _ := v.Ownership(t.Context(), "shop")
		o.Lease.Holder, o.Lease.By = "thief", "thief@host"
		if _, err := v.PutOwnership(t.Context(), o, token); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second) // one renewal
		if err := context.Cause(ctx); !errors.Is(err, dr.ErrLeaseLost) || !strings.Contains(err.Error(), "thief") {
			t.Errorf("got %v", err)
		}
		release(t, l)
	})
}

// contest is what several contenders do with one lease.
type contest struct {
	t       *testing.T
	mu      sync.Mutex
	holding map[int]context.Context
	turns   int
	lost    int
	epoch   uint64
}

// took notes that a contender holds the lease, and that nobody else does.
func (c *contest) took(who int, leased context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other, ctx := range c.holding {
		if ctx.Err() == nil {
			c.t.Errorf("%d and %d hold it at once", other, who)
		}
	}
	c.holding[who] = leased
	c.turns++
}

func (c *contest) claimed(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch <= c.epoch {
		c.t.Errorf("epoch %d after %d", epoch, c.epoch)
	}
	c.epoch = epoch
}

// turn takes the lease once, with a network that comes and goes.
func (c *contest) turn(ctx context.Context, v *Vault, g *gate, who, n int, random *rand.Rand) {
	defer g.cut.Store(false)
	leased, l, err := v.AcquireLease(ctx, request(fmt.Sprintf("holder-%d-%d", who, n)))
	if err != nil {
		return
	}
	c.took(who, leased)
	if epoch, err := l.Claim(leased, fmt.Sprint("site-", who), fmt.Sprint("run-", who, "-", n), ""); err == nil {
		c.claimed(epoch)
	}
	g.cut.Store(random.IntN(3) == 0)
	select {
	case <-leased.Done():
		c.mu.Lock()
		c.lost++
		c.mu.Unlock()
	case <-time.After(time.Duration(random.IntN(60)) * time.Second):
	}
	g.cut.Store(random.IntN(4) == 0)
	_ = l.Release(context.WithoutCancel(ctx)) // which fails when it is cut off
	c.mu.Lock()
	delete(c.holding, who)
	c.mu.Unlock()
}

// TestNeverTwoHolders lets many contend for hours while their networks come and go.
func TestNeverTwoHolders(t *testing.T) {
	t.Parallel()
	store := newVault(t).store
	const contenders = 6
	var vaults [contenders]*Vault
	var gates [contenders]*gate
	for i := range contenders {
		vaults[i], gates[i] = gated(t, store)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		c := &contest{t: t, holding: map[int]context.Context{}}
		var wg sync.WaitGroup
		for i := range contenders {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					c.turn(ctx, vaults[i], gates[i], i, n, random)
				}
			})
		}
		wg.Wait()
		if c.turns < 100 || c.lost == 0 {
			t.Errorf("only %d turns, %d leases lost", c.turns, c.lost)
		}
	})
}

// TestAStoppedProcess stops a process that holds the lease, takes it over, and lets the process go on.
func TestAStoppedProcess(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("VAULT_TEST_HOLDER"); dir != "" {
		holdUntilLost(t, dir)
		return
	}
	dir := t.TempDir()
	if err := Init(t.Context(), dr.Vault{Location: "file://" + dir + "/v"}, testKey, nil); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAStoppedProcess$")
	c.Env = append(os.Environ(), "VAULT_TEST_HOLDER="+dir+"/v")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process said %q (%v)", line, err)
	}
	time.Sleep(1500 * time.Millisecond) // longer than the lease: it must have been renewed
	store, err := blob.OpenFile(dir + "/v")
	if err != nil {
		t.Fatal(err)
	}
	v := openAgain(t, store)
	req := LeaseRequest{Application: "shop", Holder: "second", By: "test", Duration: time.Second}
	if _, _, err := v.AcquireLease(t.Context(), req); dr.ClassOf(err) != dr.ClassConflict {
		t.Errorf("while the other process lives: %v", err)
	}
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	req.Wait = true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, l, err := v.AcquireLease(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(lines)
	if !strings.HasPrefix(string(said), "lost: ") {
		t.Errorf("the stopped process said %q", said)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if err := l.Check(t.Context(), 0); err != nil {
		t.Error(err)
	}
	release(t, l)
}

func holdUntilLost(t *testing.T, dir string) {
	store, err := blob.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, l, err := openAgain(t, store).AcquireLease(t.Context(), LeaseRequest{Application: "shop", Holder: "first", By: "process", Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	select {
	case <-ctx.Done():
		fmt.Println("lost:", context.Cause(ctx))
	case <-time.After(30 * time.Second):
		fmt.Println("never lost")
	}
	release(t, l)
}
