/*
 * What libmnl.a and libnftnl.a print with. They can show a message as text, and reach that by tables of functions, so the
 * linker keeps it; nothing here ever asks for it. Without these, musl's printf comes in, floating point and all: 14 KB.
 * Debian compiles both with _FORTIFY_SOURCE, so it is mostly glibc's checkers that they call, which musl has not at all.
 */
typedef __SIZE_TYPE__ size_t;
typedef struct _IO_FILE FILE;

int __snprintf_chk(char *buf, size_t len, int flag, size_t room, const char *fmt, ...)
{
	(void)flag, (void)room, (void)fmt;
	if (len)
		*buf = 0;
	return 0;
}

int snprintf(char *buf, size_t len, const char *fmt, ...)
{
	(void)fmt;
	if (len)
		*buf = 0;
	return 0;
}

int __fprintf_chk(FILE *out, int flag, const char *fmt, ...)
{
	(void)out, (void)flag, (void)fmt;
	return 0;
}
