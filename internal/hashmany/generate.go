package hashmany

//go:generate go -C _asm run . -out ../hash_amd64.s -stubs ../hash_amd64.go -pkg hashmany
