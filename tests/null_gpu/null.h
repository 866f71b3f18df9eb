// What runtime.c and libraries.c share.
#define E extern __attribute__((visibility("default")))
void null_library_call(const char *name);
long null_handle(void);
extern int null_library_status;
