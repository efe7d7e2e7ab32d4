/*
 * musl write-protects RELRO in its dynamic linker only: a static program has the header and keeps
 * the pages writable. This does it before main: function pointers, vtables and the GOT.
 */
#include <elf.h>

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
int mprotect(void *, __SIZE_TYPE__, int);

__attribute__((constructor)) static void protect_relro(void)
{
	const Elf64_Ehdr *head = (const void *)__ehdr_start;
	const Elf64_Phdr *part = (const void *)(__ehdr_start + head->e_phoff);

	for (int i = 0; i < head->e_phnum; i++, part++) {
		if (part->p_type != PT_GNU_RELRO)
			continue;
		Elf64_Addr from = (Elf64_Addr)__ehdr_start + part->p_vaddr;
		Elf64_Addr to = (from + part->p_memsz) & -4096ul;

		from &= -4096ul;
		mprotect((void *)from, to - from, 1 /* PROT_READ */);
	}
}
