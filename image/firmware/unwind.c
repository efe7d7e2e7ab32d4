/*
 * Stands in for libunwind.a, which std asks for and Debian has not for musl. The firmware aborts on
 * panic and carries no unwind tables, so a stack walk ends at once and nothing is ever raised.
 */
typedef __UINTPTR_TYPE__ word;

int _Unwind_Backtrace(void *step, void *arg) { (void)step; (void)arg; return 5; /* end of stack */ }
int _Unwind_RaiseException(void *e) { (void)e; return 5; }
void _Unwind_Resume(void *e) { (void)e; __builtin_trap(); }
void _Unwind_DeleteException(void *e) { (void)e; }
word _Unwind_GetIP(void *c) { (void)c; return 0; }
word _Unwind_GetIPInfo(void *c, int *before) { (void)c; *before = 0; return 0; }
word _Unwind_GetCFA(void *c) { (void)c; return 0; }
word _Unwind_GetRegionStart(void *c) { (void)c; return 0; }
word _Unwind_GetTextRelBase(void *c) { (void)c; return 0; }
word _Unwind_GetDataRelBase(void *c) { (void)c; return 0; }
void *_Unwind_GetLanguageSpecificData(void *c) { (void)c; return 0; }
void *_Unwind_FindEnclosingFunction(void *pc) { (void)pc; return 0; }
void _Unwind_SetGR(void *c, int r, word v) { (void)c; (void)r; (void)v; }
void _Unwind_SetIP(void *c, word v) { (void)c; (void)v; }
