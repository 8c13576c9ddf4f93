module github.com/geistnet/geist

go 1.26.0
