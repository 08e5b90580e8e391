package repo

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math/bits"
	"strconv"
)

const formatVersion = 2

// config is the object of that name.
type config struct {
	Version    int        `json:"version"`
	ID         string     `json:"id"`
	Polynomial polynomial `json:"chunker_polynomial"`
}

func newConfig() config {
	var id ID
	_, _ = rand.Read(id[:]) // never fails
	return config{Version: formatVersion, ID: id.String(), Polynomial: randomPolynomial()}
}

func parseConfig(raw []byte) (config, error) {
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return config{}, fmt.Errorf("read config: %w", err)
	}
	if c.Version != formatVersion {
		return config{}, fmt.Errorf("repository is of version %d: %w", c.Version, ErrVersion)
	}
	if !c.Polynomial.irreducible() {
		return config{}, fmt.Errorf("read config: chunker polynomial %x is not irreducible", uint64(c.Polynomial))
	}
	return c, nil
}

// polynomial over GF(2), its coefficients as bits. The format wants an irreducible one of degree 53
// as the secret of its chunker; ours draws the gear table from it.
type polynomial uint64

const polynomialDegree = 53

func (p polynomial) MarshalJSON() ([]byte, error) {
	return json.Marshal(strconv.FormatUint(uint64(p), 16))
}

func (p *polynomial) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	n, err := strconv.ParseUint(s, 16, 64)
	*p = polynomial(n)
	return err
}

func randomPolynomial() polynomial {
	for {
		var raw [8]byte
		_, _ = rand.Read(raw[:]) // never fails
		var p polynomial
		for _, b := range raw {
			p = p<<8 | polynomial(b)
		}
		p &= 1<<polynomialDegree - 1
		p |= 1<<polynomialDegree | 1
		if p.irreducible() {
			return p
		}
	}
}

func (p polynomial) degree() int { return bits.Len64(uint64(p)) - 1 }

func (p polynomial) mod(m polynomial) polynomial {
	for d := m.degree(); p.degree() >= d; {
		p ^= m << (p.degree() - d)
	}
	return p
}

func (p polynomial) mulMod(q, m polynomial) polynomial {
	var product polynomial
	for ; q != 0; q >>= 1 {
		if q&1 != 0 {
			product ^= p
		}
		p = (p << 1).mod(m)
	}
	return product
}

// irreducible is Ben-Or's test: p of degree n shares no factor with x^(2^i) - x for i up to n/2.
func (p polynomial) irreducible() bool {
	if p.degree() < 1 || p.degree() > polynomialDegree {
		return false
	}
	const x = polynomial(2)
	power := x.mod(p)
	for range p.degree() / 2 {
		power = power.mulMod(power, p)
		a, b := p, power^x
		for b != 0 {
			a, b = b, a.mod(b)
		}
		if a != 1 {
			return false
		}
	}
	return true
}
