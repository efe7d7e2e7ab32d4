/*
 * Debian compiles libmnl.a and libnftnl.a with _FORTIFY_SOURCE, so they call two glibc checkers
 * that musl does not have. The bounds checks themselves are done by the caller's compiler.
 */
#include <stdarg.h>

typedef __SIZE_TYPE__ size_t;
typedef struct _IO_FILE FILE;
int vsnprintf(char *, size_t, const char *, va_list);
int vfprintf(FILE *, const char *, va_list);

int __snprintf_chk(char *buf, size_t len, int flag, size_t room, const char *fmt, ...)
{
	va_list ap;
	int n;

	(void)flag;
	if (room < len)
		__builtin_trap();
	va_start(ap, fmt);
	n = vsnprintf(buf, len, fmt, ap);
	va_end(ap);
	return n;
}

int __fprintf_chk(FILE *out, int flag, const char *fmt, ...)
{
	va_list ap;
	int n;

	(void)flag;
	va_start(ap, fmt);
	n = vfprintf(out, fmt, ap);
	va_end(ap);
	return n;
}
