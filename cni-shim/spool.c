// The DEL spool's writing side: a DEL that finds no agent is kept as one file per attachment, durable before the shim says success,
// so that deleting pods never waits for an agent that is being upgraded. The agent drains it (agent/cni/spool.ts).
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> // renameat
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool make_directories(const char *directory) {
  char path[4096];
  size_t length = strlen(directory);
  if (length >= sizeof path) {
    errno = ENAMETOOLONG;
    return false;
  }
  for (size_t at = 1; at <= length; at++) {
    if (directory[at] != '/' && directory[at] != '\0') continue;
    memcpy(path, directory, at);
    path[at] = '\0';
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return false;
  }
  return true;
}

static bool write_file(int directory, const char *temporary, const struct text *body, const char **step) {
  *step = "create the file";
  int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  *step = "write the file";
  bool done = write_all(fd, body->bytes, body->length);
  // The agent compares the file's time with the attachment's; the kernel's own stamp is some milliseconds behind the clock.
  struct timespec times[2];
  clock_gettime(CLOCK_REALTIME, &times[0]);
  times[1] = times[0];
  done = done && futimens(fd, times) == 0;
  if (done) {
    *step = "fsync the file";
    done = fsync(fd) == 0;
  }
  int error = errno;
  close(fd);
  errno = error;
  return done;
}

bool spool_write(const char *directory, const char *name, const struct text *body, const char **step) {
  *step = "make the directory";
  if (!make_directories(directory)) return false;
  *step = "open the directory";
  int folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return false;
  // The name's first letter is a letter or digit, so a leading dot marks what is not finished.
  struct text unfinished = {0};
  text_string(&unfinished, ".");
  text_string(&unfinished, name);
  text_string(&unfinished, ".");
  text_number(&unfinished, (unsigned)getpid());
  const char *temporary = text_end(&unfinished);
  unlinkat(folder, temporary, 0);
  bool done = write_file(folder, temporary, body, step);
  if (done) {
    *step = "rename the file";
    done = renameat(folder, temporary, folder, name) == 0;
  }
  int error = errno;
  if (!done) unlinkat(folder, temporary, 0);
  errno = error;
  if (done) {
    *step = "fsync the directory";
    done = fsync(folder) == 0;
  }
  error = errno;
  close(folder);
  errno = error;
  return done;
}
