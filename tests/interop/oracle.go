// Answers questions about notes and trees with Go's own packages: one JSON object a line in, one out.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Op     string   `json:"op"`
	Note   string   `json:"note"`
	Text   string   `json:"text"`
	Name   string   `json:"name"`
	Keys   []string `json:"keys"`
	Leaves [][]byte `json:"leaves"`
	Proof  [][]byte `json:"proof"`
	Old    int64    `json:"old"`
	New    int64    `json:"new"`
	Index  int64    `json:"index"`
	Leaf   []byte   `json:"leaf"`
	Root   []byte   `json:"root"`
	Before []byte   `json:"before"`
	URL    string   `json:"url"`
}

type answer struct {
	Error   string   `json:"error,omitempty"`
	Text    string   `json:"text,omitempty"`
	Signers []string `json:"signers,omitempty"`
	Note    string   `json:"note,omitempty"`
	Key     string   `json:"key,omitempty"`
	Roots   [][]byte `json:"roots,omitempty"`
	Proof   [][]byte `json:"proof,omitempty"`
	Entries [][]byte `json:"entries,omitempty"`
}

// cosigner verifies C2SP tlog-cosignature: a note.Verifier of type 4, whose signatures carry a time.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(sig)
	return ed25519.Verify(c.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", time, msg), sig[8:])
}

func verifier(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) == 3 {
		if data, err := base64.StdEncoding.DecodeString(parts[2]); err == nil && len(data) == 33 && data[0] == 4 {
			digest := sha256.Sum256(append([]byte(parts[0]+"\n"), data...))
			return cosigner{parts[0], binary.BigEndian.Uint32(digest[:4]), data[1:]}, nil
		}
	}
	return note.NewVerifier(vkey)
}

func open(q question) (a answer, err error) {
	var verifiers []note.Verifier
	for _, key := range q.Keys {
		v, err := verifier(key)
		if err != nil {
			return a, err
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open([]byte(q.Note), note.VerifierList(verifiers...))
	if err != nil {
		return a, err
	}
	for _, sig := range n.Sigs {
		a.Signers = append(a.Signers, sig.Name)
	}
	a.Text = n.Text
	return a, nil
}

func sign(q question) (a answer, err error) {
	skey, vkey, err := note.GenerateKey(rand.Reader, q.Name)
	if err != nil {
		return a, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return a, err
	}
	data, err := note.Sign(&note.Note{Text: q.Text}, signer)
	return answer{Note: string(data), Key: vkey}, err
}

type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, h[i])
	}
	return out, nil
}

func plain(in []tlog.Hash) (out [][]byte) {
	for _, h := range in {
		out = append(out, h[:])
	}
	return out
}

func tree(leaves [][]byte) (stored hashes, err error) {
	for i, leaf := range leaves {
		more, err := tlog.StoredHashes(int64(i), leaf, stored)
		if err != nil {
			return nil, err
		}
		stored = append(stored, more...)
	}
	return stored, nil
}

func hash(data []byte) (h tlog.Hash) { copy(h[:], data); return h }

func all(data [][]byte) (out []tlog.Hash) {
	for _, d := range data {
		out = append(out, hash(d))
	}
	return out
}

// tiles reads C2SP tlog-tiles, whose paths are those of Go without the height.
type tiles struct{ url string }

func get(url string) ([]byte, error) {
	response, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

func (t tiles) Height() int { return 8 }
func (t tiles) ReadTiles(wanted []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range wanted {
		d, err := get(t.url + "/" + strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		data = append(data, d)
	}
	return data, nil
}
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// entries reads every entry of a log over HTTP and checks it against the tree of its checkpoint.
func entries(q question) (a answer, err error) {
	head := tlog.Tree{N: q.New, Hash: hash(q.Root)}
	reader := tlog.TileHashReader(head, tiles{q.URL})
	for number := int64(0); number*256 < q.New; number++ {
		width := min(256, q.New-number*256)
		path := strings.Replace(tlog.Tile{H: 8, L: 0, N: number, W: int(width)}.Path(), "tile/8/0/", "tile/entries/", 1)
		data, err := get(q.URL + "/" + path)
		if err != nil {
			return a, err
		}
		for len(data) > 0 {
			size := int(binary.BigEndian.Uint16(data))
			a.Entries = append(a.Entries, data[2:2+size])
			data = data[2+size:]
		}
	}
	if int64(len(a.Entries)) != q.New {
		return a, fmt.Errorf("%d entries in a log of %d", len(a.Entries), q.New)
	}
	for i, entry := range a.Entries {
		proof, err := tlog.ProveRecord(q.New, int64(i), reader)
		if err != nil {
			return a, err
		}
		if err := tlog.CheckRecord(proof, q.New, head.Hash, int64(i), tlog.RecordHash(entry)); err != nil {
			return a, err
		}
	}
	return a, nil
}

func do(q question) (a answer, err error) {
	switch q.Op {
	case "open":
		return open(q)
	case "sign":
		return sign(q)
	case "roots":
		stored, err := tree(q.Leaves)
		for n := 1; n <= len(q.Leaves) && err == nil; n++ {
			var root tlog.Hash
			root, err = tlog.TreeHash(int64(n), stored)
			a.Roots = append(a.Roots, root[:])
		}
		return a, err
	case "prove-record", "prove-tree":
		stored, err := tree(q.Leaves)
		if err != nil {
			return a, err
		}
		if q.Op == "prove-record" {
			proof, err := tlog.ProveRecord(q.New, q.Index, stored)
			return answer{Proof: plain(proof)}, err
		}
		proof, err := tlog.ProveTree(q.New, q.Old, stored)
		return answer{Proof: plain(proof)}, err
	case "check-record":
		return a, tlog.CheckRecord(all(q.Proof), q.New, hash(q.Root), q.Index, tlog.RecordHash(q.Leaf))
	case "check-tree":
		return a, tlog.CheckTree(all(q.Proof), q.New, hash(q.Root), q.Old, hash(q.Before))
	case "entries":
		return entries(q)
	}
	return a, fmt.Errorf("no such question: %s", q.Op)
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var q question
		var a answer
		if err = json.Unmarshal(line, &q); err == nil {
			a, err = do(q)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		out.Encode(a)
	}
}
