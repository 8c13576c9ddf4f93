package ghost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/merkle"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBIP340 has vectors 0, 1 and 3 (with other auxiliary data, so only to
// verify), and some of those that must fail, of BIP-340.
func TestBIP340(t *testing.T) {
	secret := Secret(unhex(t, "0000000000000000000000000000000000000000000000000000000000000003"))
	key, err := secret.Public()
	if err != nil || !strings.EqualFold(key.String(), "F9308A019258C31049344F85F89D5229B531C845836F99B08601F113BCE036F9") {
		t.Fatalf("key %v, %v", key, err)
	}
	const want = "E907831F80848D1069A5371B402410364BDF1C5F8307B0084C55F1CE2DCA821525F66A4A85EA8B71E482A74F382D2CE5EBEEE8FDB2172F477DF4900D310536C0"
	sig, err := secret.Sign(Digest{})
	if err != nil || !strings.EqualFold(fmt.Sprintf("%x", sig), want) {
		t.Fatalf("signature %x, %v", sig, err)
	}
	if err := key.Verify(Digest{}, sig); err != nil {
		t.Error(err)
	}
	for i := range sig {
		bad := sig
		bad[i] ^= 1
		if key.Verify(Digest{}, bad) == nil {
			t.Errorf("byte %d of the signature changed, and it holds", i)
		}
	}
	if (Key{31: 5}).Verify(Digest{}, sig) == nil { // x = 5 is not on the curve
		t.Error("a key that is no point verifies")
	}
	// s + n is s to a library that reduces it; BIP-340 refuses it.
	bad := sig
	copy(bad[32:], groupOrder)
	if err := key.Verify(Digest{}, bad); err == nil || !strings.Contains(err.Error(), "not below the order") {
		t.Errorf("s of the order: %v", err)
	}
	for _, s := range []Secret{{}, Secret([]byte(groupOrder))} {
		if _, err := s.Public(); err == nil {
			t.Errorf("%x is a secret key", s[:])
		}
		if err := testReceipt(1).Sign(s); err == nil {
			t.Errorf("%x signs", s[:])
		}
	}
	if s := fmt.Sprintf("%v %s %+v %#v", secret, secret, secret, secret); strings.Contains(s, "3") {
		t.Errorf("a secret key shows itself: %s", s)
	}
}

func fill(n byte) (b [32]byte) {
	for i := range b {
		b[i] = n + byte(i)
	}
	return b
}

var testSecret = Secret{31: 7}

func testRequest() *Request {
	return &Request{
		Salt: fill(1), Prompt: []int32{1, 300, 7, 31999},
		Sampling:  arith.Sampling{Temperature: 0.75, TopK: 40, TopP: 0.875, MinP: 0.0625, RepeatLast: 64, RepeatPenalty: 1.125, PresencePenalty: 0.5, FrequencyPenalty: -0.5, Bias: map[int32]float32{9: -100, 3: 2.5}},
		MaxTokens: 256, Stop: []string{"\n\n", "höre auf"}, Grammar: fill(2), IgnoreEnd: true,
	}
}

var testAnswer = []int32{17, 4, 2}

// testReceipt is unsigned.
func testReceipt(seed byte) *Receipt {
	q := testRequest()
	r := &Receipt{
		Time: 1795219200, Model: ID(fill(3)), Arithmetic: arith.Version, Request: q.Hash(),
		Prompt: HashTokens(q.Salt, q.Prompt), Answer: HashTokens(q.Salt, testAnswer), Finish: FinishStop, SeedRule: SeedRule1,
		SeedNonce: CommitSeed(fill(4)), AuditNonce: CommitAudit(fill(5)), Trace: merkle.Hash(fill(6)), Client: Key(fill(7)),
		Price: 1234, Grade: GhostAudited,
	}
	switch seed % 3 {
	case 0:
		r.Grade, r.Trace = Reputation, merkle.Hash{}
	case 2:
		r.Grade, r.Finish, r.Price, r.Time = GhostSound, FinishCancelled, 0, 1
		r.Answer = HashTokens(q.Salt, nil)
	}
	return r
}

func signed(t testing.TB, seed byte) *Receipt {
	t.Helper()
	r := testReceipt(seed)
	if err := r.Sign(testSecret); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReceipt(t *testing.T) {
	for seed := range byte(3) {
		r := signed(t, seed)
		b := r.Encode()
		got, err := ParseReceipt(b)
		if err != nil || *got != *r {
			t.Fatalf("%s: %+v, %v", b, got, err)
		}
		// As any tool for Nostr sees it.
		var e struct {
			ID, PubKey string
			CreatedAt  int64 `json:"created_at"`
			Kind       int
			Tags       [][]string
			Content    string
		}
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		serial, err := json.Marshal([]any{0, e.PubKey, e.CreatedAt, e.Kind, e.Tags, e.Content})
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(serial); hex.EncodeToString(sum[:]) != e.ID || e.ID != r.ID().String() {
			t.Errorf("the id is %s, NIP-01 makes %x", e.ID, sum)
		}
	}
}

// TestReceiptBytes changes each byte of a receipt in several ways.
func TestReceiptBytes(t *testing.T) {
	b := signed(t, 1).Encode()
	for i := range b {
		for _, c := range []byte{b[i] ^ 1, b[i] ^ 0x20, '0', '"', ' '} {
			if c == b[i] {
				continue
			}
			x := bytes.Clone(b)
			x[i] = c
			if _, err := ParseReceipt(x); err == nil {
				t.Fatalf("byte %d changed to %q is a receipt", i, c)
			}
		}
		if _, err := ParseReceipt(b[:i]); err == nil {
			t.Fatalf("the first %d bytes are a receipt", i)
		}
		if _, err := ParseReceipt(append(append(bytes.Clone(b[:i]), ' '), b[i:]...)); err == nil {
			t.Fatalf("a space at %d, and it is a receipt", i)
		}
	}
}

// TestReceiptFields changes each field after signing.
func TestReceiptFields(t *testing.T) {
	for seed := range byte(3) {
		r := signed(t, seed)
		v := reflect.ValueOf(r).Elem()
		n := 0
		var walk func(path string, v reflect.Value)
		refuse := func(path string) {
			n++
			if r.Verify() == nil {
				t.Errorf("%s changed, and the receipt verifies", path)
			}
			if _, err := ParseReceipt(r.Encode()); err == nil {
				t.Errorf("%s changed, and the receipt parses", path)
			}
		}
		walk = func(path string, v reflect.Value) {
			switch v.Kind() {
			case reflect.Struct:
				for i := range v.NumField() {
					walk(path+"."+v.Type().Field(i).Name, v.Field(i))
				}
			case reflect.Array:
				for i := range v.Len() {
					walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
				}
			case reflect.Uint8, reflect.Uint64:
				v.SetUint(v.Uint() ^ 1)
				refuse(path)
				v.SetUint(v.Uint() ^ 1)
			case reflect.Int, reflect.Int64:
				for _, d := range []int64{1, -1} {
					v.SetInt(v.Int() + d)
					refuse(path)
					v.SetInt(v.Int() - d)
				}
			case reflect.String:
				s := v.String()
				for _, x := range []string{"", "length", "reputation", "ghost-sound", s + "\"", "Stop"} {
					if x != s {
						v.SetString(x)
						refuse(path)
					}
				}
				v.SetString(s)
			default:
				t.Fatalf("%s is a %v", path, v.Kind())
			}
		}
		walk("Receipt", v)
		if n < 300 || r.Verify() != nil {
			t.Errorf("%d changes, then %v", n, r.Verify())
		}
	}
}

// TestReceiptForm: what means the same to a lenient reader is refused.
func TestReceiptForm(t *testing.T) {
	s := string(signed(t, 1).Encode())
	for _, c := range [][2]string{
		{`"kind":21340`, `"kind":2.134e4`},
		{`"price","1234"`, `"price","01234"`},
		{`"price","1234"`, `"price","+1234"`},
		{`["geist","1"],`, ``},
		{`["grade","ghost-audited"]`, `["grade","ghost-audited"],["x","y"]`},
		{`["grade","ghost-audited"]`, `["grade","ghost-audited","x"]`},
		{`["grade",`, `["grade"],["grade",`},
		{`"content":""`, `"content":"x"`},
		{`"content":""`, `"content":"","content":""`},
		{`"model"`, `"mode\u006c"`},
		{`{"id"`, `{"x":1,"id"`},
		{`"sig":`, `"Sig":`},
		{`"msat"]`, `"sat"]`},
		{`"tags":[[`, `"tags":[[],[`},
	} {
		x := strings.Replace(s, c[0], c[1], 1)
		if x == s {
			t.Fatalf("%s is not in the receipt", c[0])
		}
		if _, err := ParseReceipt([]byte(x)); err == nil {
			t.Errorf("%s in place of %s is accepted", c[1], c[0])
		}
	}
	upper := strings.ToUpper(hex.EncodeToString(signed(t, 1).Client[:]))
	if _, err := ParseReceipt([]byte(strings.Replace(s, strings.ToLower(upper), upper, 1))); err == nil {
		t.Error("upper-case digits are accepted")
	}
	for _, x := range []string{"", "null", "{}", "[]", s + "\n", s + s, strings.Repeat(" ", maxReceipt) + s} {
		if _, err := ParseReceipt([]byte(x)); err == nil {
			t.Errorf("%.40q is accepted", x)
		}
	}
}

func TestAnswers(t *testing.T) {
	r, q := signed(t, 1), testRequest()
	if err := r.Answers(q, testAnswer); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Request){
		"salt":        func(q *Request) { q.Salt[0]++ },
		"prompt":      func(q *Request) { q.Prompt[0]++ },
		"long prompt": func(q *Request) { q.Prompt = append(q.Prompt, 0) },
		"no prompt":   func(q *Request) { q.Prompt = nil },
		"temperature": func(q *Request) { q.Sampling.Temperature++ },
		"bias":        func(q *Request) { q.Sampling.Bias[3]++ },
		"max":         func(q *Request) { q.MaxTokens++ },
		"max below":   func(q *Request) { q.MaxTokens = 2; r.Request = q.Hash() },
	} {
		q := testRequest()
		spoil(q)
		if r.Answers(q, testAnswer) == nil {
			t.Errorf("another %s, and the receipt is for it", name)
		}
		r = signed(t, 1)
	}
	for _, a := range [][]int32{nil, {17, 4}, {17, 4, 3}, {17, 4, 2, 2}} {
		if r.Answers(q, a) == nil {
			t.Errorf("the receipt is for the answer %d", a)
		}
	}
}

func TestRequest(t *testing.T) {
	q := testRequest()
	b, err := q.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRequest(b)
	if err != nil || !reflect.DeepEqual(got, q) {
		t.Fatalf("%+v, %v", got, err)
	}
	hashes := map[Digest]int{q.Hash(): -1}
	for i := range b {
		for _, x := range []byte{1, 0x80} {
			c := bytes.Clone(b)
			c[i] ^= x
			got, err := DecodeRequest(c)
			if err != nil {
				continue
			}
			if j, ok := hashes[got.Hash()]; ok {
				t.Fatalf("changes of byte %d and %d have one hash", i, j)
			}
			hashes[got.Hash()] = i
			if again, err := got.Encode(); err != nil || !bytes.Equal(again, c) {
				t.Fatalf("byte %d: another encoding of the same request", i)
			}
		}
		if _, err := DecodeRequest(b[:i]); err == nil {
			t.Fatalf("the first %d bytes are a request", i)
		}
	}
	if len(hashes) < 200 {
		t.Errorf("%d hashes", len(hashes))
	}
	nan := float32(0)
	nan /= nan
	for want, spoil := range map[string]func(*Request){
		"the number of prompt tokens is 0": func(q *Request) { q.Prompt = nil },
		"prompt token 1 is -1":             func(q *Request) { q.Prompt[1] = -1 },
		"the largest number of answered":   func(q *Request) { q.MaxTokens = 0 },
		"stop text 1":                      func(q *Request) { q.Stop[1] = "" },
		"stop text 0":                      func(q *Request) { q.Stop[0] = "\xff" },
		"the number of stop texts":         func(q *Request) { q.Stop = make([]string, 65) },
		"temperature must be":              func(q *Request) { q.Sampling.Temperature = nan },
		"logit_bias values":                func(q *Request) { q.Sampling.Bias[3] = nan },
		"a bias for token -1":              func(q *Request) { q.Sampling.Bias[-1] = 0 },
		"it has a seed":                    func(q *Request) { q.Sampling.Seed[0] = 1 },
		"top_k is":                         func(q *Request) { q.Sampling.TopK = -1 },
	} {
		q := testRequest()
		spoil(q)
		if _, err := q.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one with %q", err, want)
		}
	}
}

func TestDomains(t *testing.T) {
	n := Nonce(fill(9))
	seen := map[Digest]bool{CommitSeed(n): true, CommitAudit(n): true, Digest(n): true, digest(domainModel, n[:]): true}
	if len(seen) != 4 {
		t.Error("two domains give one digest")
	}
	q, id := testRequest().Hash(), ID(fill(3))
	seeds := map[[32]byte]bool{Seed(n, q, id): true, Seed(Nonce{}, q, id): true, Seed(n, Digest{}, id): true, Seed(n, q, ID{}): true}
	if len(seeds) != 4 {
		t.Error("a seed does not depend on nonce, request and model")
	}
}

func FuzzParseReceipt(f *testing.F) {
	for seed := range byte(3) {
		f.Add(signed(f, seed).Encode())
	}
	f.Add([]byte(`{"tags":[["geist"]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReceipt(b)
		if err == nil && !bytes.Equal(r.Encode(), b) {
			t.Fatal("another form of the same receipt")
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	b, err := testRequest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := DecodeRequest(b)
		if err != nil {
			return
		}
		if again, err := q.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("another encoding of the same request")
		}
		q.Hash()
	})
}

func BenchmarkVerifyReceipt(b *testing.B) {
	x := signed(b, 1).Encode()
	for b.Loop() {
		if _, err := ParseReceipt(x); err != nil {
			b.Fatal(err)
		}
	}
}
