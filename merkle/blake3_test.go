package merkle

import (
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// TestKeys: the constants are the contexts, hashed.
func TestKeys(t *testing.T) {
	for context, key := range map[string][8]uint32{leafContext: leafKey, nodeContext: nodeKey} {
		if got := subtree(&iv, []byte(context), 0, flagDeriveContext, flagRoot); got != key {
			t.Errorf("key of %q is %#08x, want %#08x", context, got, key)
		}
	}
}

// TestBLAKE3 compares with the test vectors of the BLAKE3 reference
// implementation: message bytes 0, 1, …, 250, 0, …; plain hash and key derivation
// under its context.
func TestBLAKE3(t *testing.T) {
	const context = "BLAKE3 2019-12-27 16:29:52 test vectors context"
	key := subtree(&iv, []byte(context), 0, flagDeriveContext, flagRoot)
	for _, c := range []struct {
		n             int
		plain, derive string
	}{
		{0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262", "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"},
		{1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213", "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c"},
		{1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11", "74a16c1c3d44368a86e1ca6df64be6a2f64cce8f09220787450722d85725dea5"},
		{1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7", "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706"},
		{1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444", "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb"},
		{2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a", "7b2945cb4fef70885cc5d78a87bf6f6207dd901ff239201351ffac04e1088a23"},
		{2049, "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030", "2ea477c5515cc3dd606512ee72bb3e0e758cfae7232826f35fb98ca1bcbdf273"},
		{3072, "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2", "050df97f8c2ead654d9bb3ab8c9178edcd902a32f8495949feadcc1e0480c46b"},
		{3073, "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3", "72613c9ec9ff7e40f8f5c173784c532ad852e827dba2bf85b2ab4b76f7079081"},
		{4096, "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969", "1e0d7f3db8c414c97c6307cbda6cd27ac3b030949da8e23be1a1a924ad2f25b9"},
		{4097, "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995", "aca51029626b55fda7117b42a7c211f8c6e9ba4fe5b7a8ca922f34299500ead8"},
		{5120, "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833", "7a7acac8a02adcf3038d74cdd1d34527de8a0fcc0ee3399d1262397ce5817f60"},
		{5121, "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff", "b07f01e518e702f7ccb44a267e9e112d403a7b3f4883a47ffbed4b48339b3c34"},
		{6144, "3e2e5b74e048f3add6d21faab3f83aa44d3b2278afb83b80b3c35164ebeca205", "2a95beae63ddce523762355cf4b9c1d8f131465780a391286a5d01abb5683a15"},
		{6145, "f1323a8631446cc50536a9f705ee5cb619424d46887f3c376c695b70e0f0507f", "379bcc61d0051dd489f686c13de00d5b14c505245103dc040d9e4dd1facab8e5"},
		{7168, "61da957ec2499a95d6b8023e2b0e604ec7f6b50e80a9678b89d2628e99ada77a", "11c37a112765370c94a51415d0d651190c288566e295d505defdad895dae2237"},
		{7169, "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817", "554b0a5efea9ef183f2f9b931b7497995d9eb26f5c5c6dad2b97d62fc5ac31d9"},
		{8192, "aae792484c8efe4f19e2ca7d371d8c467ffb10748d8a5a1ae579948f718a2a63", "ad01d7ae4ad059b0d33baa3c01319dcf8088094d0359e5fd45d6aeaa8b2d0c3d"},
		{8193, "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b", "af1e0346e389b17c23200270a64aa4e1ead98c61695d917de7d5b00491c9b0f1"},
		{16384, "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4", "160e18b5878cd0df1c3af85eb25a0db5344d43a6fbd7a8ef4ed98d0714c3f7e1"},
		{31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47", "39772aef80e0ebe60596361e45b061e8f417429d529171b6764468c22928e28e"},
		{100000, "d93c23eedaf165a7e0be908ba86f1a7a520d568d2d13cde787c8580c5c72cc54", "039c0c0d76eacefea9c8d042698bd012d3cef4091ed5c5a7e32a30e4d5171893"},
	} {
		b := make([]byte, c.n)
		for i := range b {
			b[i] = byte(i % 251)
		}
		if got := hash(&iv, b, 0).String(); got != c.plain {
			t.Errorf("hash of %d bytes is %s, want %s", c.n, got, c.plain)
		}
		if got := hash(&key, b, flagDeriveMaterial).String(); got != c.derive {
			t.Errorf("key derived from %d bytes is %s, want %s", c.n, got, c.derive)
		}
	}
}

// TestAllLengths hashes leaves of every length up to 5000 bytes into one value.
// It came from an independent implementation, zeebo/blake3 v0.2.4.
func TestAllLengths(t *testing.T) {
	var b, all []byte
	for n := range 5001 {
		h := HashLeaf(b)
		all = append(all, h[:]...)
		b = append(b, byte(n*n>>3+n))
	}
	got := HashLeaf(all)
	if want := "4e9259012ff118db8583a02584eb8228f28482014d68fa31fa516473839211ad"; got.String() != want {
		t.Errorf("hash of all hashes is %s, want %s", got, want)
	}
}

// TestNode: a node is the derived key of its children in a row, and no leaf.
func TestNode(t *testing.T) {
	l, r := HashLeaf(nil), HashLeaf([]byte{1})
	both := append(l[:], r[:]...)
	if got := HashNode(l, r); got != hash(&nodeKey, both, flagDeriveMaterial) {
		t.Errorf("node is %v", got)
	}
	if HashNode(l, r) == HashLeaf(both) {
		t.Error("a leaf can pass for a node")
	}
	if HashNode(l, r) == HashNode(r, l) {
		t.Error("the order of children does not matter")
	}
}

func TestString(t *testing.T) {
	h := Hash{0: 0xab, 31: 1}
	if b, err := hex.DecodeString(h.String()); err != nil || Hash(b) != h || binary.BigEndian.Uint16(b) != 0xab00 {
		t.Errorf("%s: %v", h, err)
	}
}
