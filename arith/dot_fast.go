package arith

// The formats that most models have, without taking blocks apart first: a
// verifier spends much of its time here. Block sums are exact integers, so the
// order within a block is free, and tests compare with dotBlocks bit for bit.

func dotQ8_0(row []byte, a Activations) float32 {
	var acc float32
	for b, dx := range a.D {
		w, x := (*[34]byte)(row[b*34:]), (*[32]int8)(a.Q[b*32:])
		var s, t int32
		for i := 0; i < 32; i += 4 {
			s += int32(int8(w[2+i]))*int32(x[i]) + int32(int8(w[3+i]))*int32(x[i+1])
			t += int32(int8(w[4+i]))*int32(x[i+2]) + int32(int8(w[5+i]))*int32(x[i+3])
		}
		acc += float32(float32(float32(s+t)*half(w[:])) * dx)
	}
	return acc
}

func dotQ4_0(row []byte, a Activations) float32 {
	var acc float32
	for b, dx := range a.D {
		w, x := (*[18]byte)(row[b*18:]), (*[32]int8)(a.Q[b*32:])
		var s, xs int32
		for i := range 16 {
			v, lo, hi := w[2+i], int32(x[i]), int32(x[16+i])
			s += int32(v&15)*lo + int32(v>>4)*hi
			xs += lo + hi
		}
		acc += float32(float32(float32(s-8*xs)*half(w[:])) * dx)
	}
	return acc
}

func dotQ4_K(row []byte, a Activations) float32 {
	var acc float32
	for b, dx := range a.D {
		w := (*[144]byte)(row[b*144:])
		var s, m int32
		for j := range 4 { // each of 32 bytes with the codes of two sub-blocks
			q, x0, x1 := (*[32]byte)(w[16+32*j:]), (*[32]int8)(a.Q[b*256+64*j:]), (*[32]int8)(a.Q[b*256+64*j+32:])
			var s0, s1, m0, m1 int32
			for i := range 32 {
				v, lo, hi := q[i], int32(x0[i]), int32(x1[i])
				s0 += int32(v&15) * lo
				s1 += int32(v>>4) * hi
				m0 += lo
				m1 += hi
			}
			sc0, mn0 := kScale6(w[4:16], 2*j)
			sc1, mn1 := kScale6(w[4:16], 2*j+1)
			s += sc0*s0 + sc1*s1
			m += mn0*m0 + mn1*m1
		}
		t := float32(float32(s) * half(w[:]))
		t += float32(float32(m) * -half(w[2:]))
		acc += float32(t * dx)
	}
	return acc
}
