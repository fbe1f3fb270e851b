/* What Android's libtensorflowlite_jni.so needs of Android's C library and glibc has not, or has
   otherwise. For tests on Linux alone; patch_library.py renames what is called shim_ here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------- symbols that glibc has not */

/* stdin, stdout and stderr: three structures of 152 bytes on 64-bit Android. */
char __sF[3 * 152];

int *__errno(void) { return __errno_location(); }

size_t __strlen_chk(const char *text, size_t room) {
  (void)room;
  return strlen(text);
}

/* The engine's fast kernels, XNNPACK's, ask for Android's version and want 20 at least. */
int __system_property_get(const char *name, char *value) {
  strcpy(value, strcmp(name, "ro.build.version.sdk") ? "" : "34");
  return (int)strlen(value);
}

void android_set_abort_message(const char *message) { fprintf(stderr, "abort: %s\n", message); }

int __android_log_vprint(int priority, const char *tag, const char *format, va_list arguments) {
  char text[2048];
  int length = vsnprintf(text, sizeof text, format, arguments);
  if (priority >= 5) fprintf(stderr, "%s: %s\n", tag, text); /* 5 is a warning. */
  return length;
}

/* ------------------------------------------------- functions that take one of Android's FILEs */

static FILE *file_of(void *file) {
  ptrdiff_t place = (char *)file - __sF;
  if (place < 0 || place >= (ptrdiff_t)sizeof __sF) return file;
  return place < 152 ? stdin : place < 304 ? stdout : stderr;
}

int shim_vfprintf(void *file, const char *format, va_list arguments) {
  return vfprintf(file_of(file), format, arguments);
}

int shim_fprintf(void *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vfprintf(file_of(file), format, arguments);
  va_end(arguments);
  return length;
}

int shim_fputc(int character, void *file) { return fputc(character, file_of(file)); }

size_t shim_fwrite(const void *data, size_t size, size_t count, void *file) {
  return fwrite(data, size, count, file_of(file));
}

int shim_fflush(void *file) { return fflush(file ? file_of(file) : NULL); }

/* ------------------------------------------------------------------ other numbers and sizes */

/* Without a library, Android looks into the caller's own too, which a JVM has loaded for itself. */
void *shim_dlsym(void *library, const char *name) {
  Dl_info caller;
  void *found = dlsym(library ? library : RTLD_DEFAULT, name);
  if (found || library || !dladdr(__builtin_return_address(0), &caller)) return found;
  library = dlopen(caller.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  return library ? dlsym(library, name) : NULL;
}

/* Android numbers the names of sysconf differently. */
long shim_sysconf(int name) {
  switch (name) {
    case 0x27:
    case 0x28: return sysconf(_SC_PAGESIZE);
    case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
    case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
    case 0x62: return sysconf(_SC_PHYS_PAGES);
    default: errno = EINVAL; return -1;
  }
}

/* Android's condition variable is 48 bytes of zeros aligned to 4; glibc's wants an alignment of 8
   on arm64. So keep a pointer to one of glibc's in it, made when it is first used. */
static pthread_cond_t *condition_of(void *android) {
  pthread_cond_t **slot = (pthread_cond_t **)(((uintptr_t)android + 7) & ~(uintptr_t)7);
  pthread_cond_t *present = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
  if (present) return present;
  pthread_cond_t *made = calloc(1, sizeof *made);
  pthread_cond_init(made, NULL);
  if (__atomic_compare_exchange_n(slot, &present, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    return made;
  }
  pthread_cond_destroy(made);
  free(made);
  return present;
}

int shim_pthread_cond_init(void *android, const void *attributes) {
  (void)attributes;
  memset(android, 0, 48);
  return 0;
}

int shim_pthread_cond_signal(void *android) { return pthread_cond_signal(condition_of(android)); }

int shim_pthread_cond_broadcast(void *android) {
  return pthread_cond_broadcast(condition_of(android));
}

int shim_pthread_cond_wait(void *android, pthread_mutex_t *mutex) {
  return pthread_cond_wait(condition_of(android), mutex);
}

int shim_pthread_cond_timedwait(void *android, pthread_mutex_t *mutex, const struct timespec *end) {
  return pthread_cond_timedwait(condition_of(android), mutex, end);
}

int shim_pthread_cond_destroy(void *android) {
  pthread_cond_t *condition = condition_of(android);
  int result = pthread_cond_destroy(condition);
  free(condition);
  memset(android, 0, 48);
  return result;
}
