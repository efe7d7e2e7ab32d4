/*
 * Pages for musl's heap without a system call. It maps and unmaps some for every few allocations: half of the system calls
 * of an apply. Here small mappings are cut from an arena that is part of .bss, of which only what is used takes memory;
 * what is large, or finds no room, goes to the kernel as ever. (In the place of musl's mmap.c, munmap.c and mremap.c.)
 */
#include <sys/syscall.h>

typedef __SIZE_TYPE__ size_t;
typedef unsigned char byte;

void *memset(void *, int, size_t);
long syscall(long, ...);
int sched_yield(void);

#define PAGE 4096
#define PAGES 1024
#define SMALL 8 /* pages: more of them may not all be wanted, so they are never cleared for that */
#define LARGE 128 /* pages: more come from the kernel */
#define IDLE 64 /* pages: more that were used and are free go back to the kernel */
#define PRIVATE_ANONYMOUS 0x22
#define READ_WRITE 3
#define DONT_NEED 4

static byte arena[PAGES][PAGE] __attribute__((aligned(PAGE)));
static byte is_taken[PAGES], was_used[PAGES];
static size_t idle; /* pages that were used and are free */
static _Bool is_held;

/* Beside the firmware, returnpath-board is built with this; it may have a second thread one day. */
static void hold(void)
{
	while (__atomic_test_and_set(&is_held, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void let_go(void)
{
	__atomic_clear(&is_held, __ATOMIC_RELEASE);
}

static void *cut(size_t count)
{
	size_t run = 0, from, i;

	hold();
	for (i = 0; i < PAGES && run < count; i++)
		run = is_taken[i] || (was_used[i] && count > SMALL) ? 0 : run + 1;
	from = i - count;
	if (run == count)
		memset(is_taken + from, 1, count);
	for (i = from; run == count && i < from + count; i++) {
		if (was_used[i]) {
			memset(arena[i], 0, PAGE); /* as the kernel gives them */
			idle--;
		}
		was_used[i] = 1;
	}
	let_go();
	return run == count ? arena[from] : 0;
}

static void put_back(size_t from, size_t count)
{
	size_t i, end;

	hold();
	memset(is_taken + from, 0, count);
	idle += count;
	for (i = 0; idle > IDLE && i < PAGES; i = end + 1) {
		for (end = i; end < PAGES && was_used[end] && !is_taken[end]; end++)
			was_used[end] = 0;
		if (end > i)
			syscall(SYS_madvise, arena[i], (end - i) * PAGE, DONT_NEED);
	}
	if (i)
		idle = 0;
	let_go();
}

static _Bool is_ours(void *start)
{
	return (byte *)start >= arena[0] && (byte *)start < arena[PAGES - 1] + PAGE;
}

void *__mmap(void *start, size_t length, int protection, int flags, int file, long offset)
{
	size_t count = (length + PAGE - 1) / PAGE;
	void *pages = 0;

	if (!start && count && count <= LARGE && protection == READ_WRITE && flags == PRIVATE_ANONYMOUS)
		pages = cut(count);
	return pages ? pages : (void *)syscall(SYS_mmap, start, length, protection, flags, file, offset);
}

int __munmap(void *start, size_t length)
{
	size_t from = ((byte *)start - arena[0]) / PAGE, count = (length + PAGE - 1) / PAGE;

	if (!is_ours(start))
		return syscall(SYS_munmap, start, length);
	put_back(from, count < PAGES - from ? count : PAGES - from);
	return 0;
}

/* Pages of the arena stay where they are: the kernel would leave a hole there, and map others into it. */
void *__mremap(void *start, size_t before, size_t after, int flags, ...)
{
	return is_ours(start) ? (void *)-1 : (void *)syscall(SYS_mremap, start, before, after, flags, 0);
}

void *mmap(void *, size_t, int, int, int, long) __attribute__((alias("__mmap")));
int munmap(void *, size_t) __attribute__((alias("__munmap")));
void *mremap(void *, size_t, size_t, int, ...) __attribute__((alias("__mremap")));
