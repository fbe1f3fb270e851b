/* A java for tests of Android's arm64 library under user-mode emulation: it starts the JVM as java
   itself does, but reserves what Android's code on arm64 reads as its stack guard, 40 bytes behind
   the thread pointer. With glibc that is the executable's own thread-local storage. */
#include <stddef.h>

static __thread volatile char guard[256];

int JLI_Launch(int argc, char **argv, int java_argc, const char **java_argv, int class_path_count,
               const char **class_path, const char *full_version, const char *dot_version,
               const char *program, const char *launcher, unsigned char java_arguments,
               unsigned char wildcards, unsigned char window, int ergonomics);

int main(int argc, char **argv) {
  guard[0] = 0;
  return JLI_Launch(argc, argv, 0, NULL, 0, NULL, "17", "17", "java", "java", 0, 1, 0, 0);
}
