/*
 * Copying and comparing, for what a netlink message is made of: thousands of pieces of a few bytes. musl copies by `rep movs`,
 * which takes some 30 cycles to start, and compares byte after byte: a quarter of an apply's own time.
 */
typedef __SIZE_TYPE__ size_t;
typedef unsigned char byte;
typedef unsigned short two __attribute__((may_alias, aligned(1)));
typedef unsigned int four __attribute__((may_alias, aligned(1)));
typedef unsigned long eight __attribute__((may_alias, aligned(1)));

#define LONG 256 /* bytes: from here on the start of `rep movs` is repaid */

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	byte *t = to;
	const byte *f = from;

	/* The two ends, which may overlap, are all of it. */
#define ENDS(type) (*(type *)(t + n - sizeof(type)) = *(const type *)(f + n - sizeof(type)), *(type *)t = *(const type *)f)
	if (n >= LONG) {
		void *end = t;
		__asm__ volatile("rep movsb" : "+D"(end), "+S"(f), "+c"(n) : : "memory");
	} else if (n >= 8) {
		eight last = *(const eight *)(f + n - 8);
		for (; n > 8; n -= 8, t += 8, f += 8)
			*(eight *)t = *(const eight *)f;
		*(eight *)(t + n - 8) = last;
	} else if (n >= 4) {
		ENDS(four);
	} else if (n >= 2) {
		ENDS(two);
	} else if (n) {
		*t = *f;
	}
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	byte *t = to;
	const byte *f = from;

	if ((size_t)t - (size_t)f >= n && (size_t)f - (size_t)t >= n)
		return memcpy(to, from, n);
	if (t < f) { /* a piece is stored below the next one that is loaded */
		for (; n >= 8; n -= 8, t += 8, f += 8)
			*(eight *)t = *(const eight *)f;
		for (; n; n--)
			*t++ = *f++;
	} else {
		for (; n >= 8; n -= 8)
			*(eight *)(t + n - 8) = *(const eight *)(f + n - 8);
		while (n--)
			t[n] = f[n];
	}
	return to;
}

int memcmp(const void *one, const void *other, size_t n)
{
	const byte *a = one, *b = other;

	for (; n >= 8 && *(const eight *)a == *(const eight *)b; n -= 8)
		a += 8, b += 8;
	for (; n && *a == *b; n--)
		a++, b++;
	return n ? *a - *b : 0;
}
