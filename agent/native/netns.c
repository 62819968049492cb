// Work inside another network namespace. setns is per thread: the calling thread goes there and comes back within one call, so
// nothing of JavaScript ever runs in a pod. A throw-away thread costs its hand-off, the largest part of an ADD on a busy machine.
// Also: what a path is (is it a network namespace at all?), and small sysctl files, which /proc/sys/net resolves by the namespace
// of the thread that opens them.
#include "weft.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NSFS_MAGIC_NUMBER 0x6e736673

// This process' own namespace, opened once: no thread of it ever stays in another.
static int own_netns(void) {
  static atomic_int own = -1;
  int fd = atomic_load(&own);
  if (fd >= 0) return fd;
  int opened = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (opened < 0 || atomic_compare_exchange_strong(&own, &fd, opened)) return opened;
  close(opened);
  return fd;
}

bool in_open_netns(int there, void (*work)(void *), void *argument, struct failure *failure) {
  int here = own_netns();
  if (here < 0)
    *failure = (struct failure){errno, "open"};
  else if (setns(there, CLONE_NEWNET) != 0)
    *failure = (struct failure){errno, "setns"};
  else {
    work(argument);
    // A process that goes on in a pod's namespace would program the pod as if it were the node.
    if (setns(here, CLONE_NEWNET) != 0) abort();
    return true;
  }
  return false;
}

bool in_netns(const char *path, void (*work)(void *), void *argument, struct failure *failure) {
  if (path == NULL) {
    work(argument);
    return true;
  }
  // O_NONBLOCK: the path may be a fifo that nobody writes.
  int there = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (there < 0) {
    *failure = (struct failure){errno, "open"};
    return false;
  }
  bool entered = in_open_netns(there, work, argument, failure);
  close(there);
  return entered;
}

static void set_number(napi_env env, napi_value object, const char *name, double number) {
  napi_value value;
  napi_create_double(env, number, &value);
  napi_set_named_property(env, object, name, value);
}

// A descriptor of the namespace at path, whatever its kind; -1 with *failure. For anything else -1 with no errno: looking must not open a
// device or fifo, so the filesystem is asked first.
static int open_nsfs(const char *path, struct failure *failure) {
  struct statfs filesystem;
  *failure = (struct failure){0, "open"};
  if (statfs(path, &filesystem) != 0) {
    *failure = (struct failure){errno, "statfs"};
    return -1;
  }
  if (filesystem.f_type != NSFS_MAGIC_NUMBER) return -1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) failure->number = errno;
  return fd;
}

static bool is_network(int fd) {
  return ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET;
}

// True when there is anything at path: identity in *status, and whether it is a network namespace.
static bool look(const char *path, struct stat *status, bool *is_netns, struct failure *failure) {
  int fd = open_nsfs(path, failure);
  *is_netns = fd >= 0 && is_network(fd);
  if (failure->number != 0) return false;
  bool known = fd >= 0 ? fstat(fd, status) == 0 : stat(path, status) == 0;
  if (!known) *failure = (struct failure){errno, "stat"};
  if (fd >= 0) close(fd);
  return known;
}

// netnsInfo(path) -> { dev, ino, isNetns }
static napi_value netns_info(napi_env env, napi_callback_info info) {
  napi_value argument;
  char *path;
  if (!read_arguments(env, info, 1, &argument) || !read_string(env, argument, &path)) return NULL;
  struct stat status;
  struct failure failure = {ENOENT, "open"};
  bool is_netns = false;
  bool found = path != NULL && look(path, &status, &is_netns, &failure);
  free(path);
  if (!found) return throw_failure(env, failure);
  napi_value result, flag;
  napi_create_object(env, &result);
  set_number(env, result, "dev", (double)status.st_dev);
  set_number(env, result, "ino", (double)status.st_ino);
  napi_get_boolean(env, is_netns, &flag);
  napi_set_named_property(env, result, "isNetns", flag);
  return result;
}

// netnsOpen(path) -> fd, closed by netlinkClose; -1 for whatever else the path is
static napi_value netns_open(napi_env env, napi_callback_info info) {
  napi_value argument, result;
  char *path;
  if (!read_arguments(env, info, 1, &argument) || !read_string(env, argument, &path)) return NULL;
  struct failure failure = {ENOENT, "open"};
  int fd = path == NULL ? -1 : open_nsfs(path, &failure);
  free(path);
  if (failure.number != 0) return throw_failure(env, failure);
  if (fd >= 0 && !is_network(fd)) {
    close(fd);
    fd = -1;
  }
  napi_create_int32(env, fd, &result);
  return result;
}

// netnsInode(fd) -> number
static napi_value netns_inode(napi_env env, napi_callback_info info) {
  napi_value argument, result;
  int64_t fd;
  struct stat status;
  if (!read_arguments(env, info, 1, &argument) || !read_int(env, argument, &fd)) return NULL;
  if (fstat((int)fd, &status) != 0) return throw_failure(env, (struct failure){errno, "fstat"});
  napi_create_double(env, (double)status.st_ino, &result);
  return result;
}

struct small_file {
  const char *path;
  const char *value; // NULL: read
  char content[4096];
  size_t length;
  struct failure failure;
};

static void touch_file(void *argument) {
  struct small_file *file = argument;
  int fd = open(file->path, (file->value == NULL ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
  if (fd < 0) {
    file->failure = (struct failure){errno, "open"};
    return;
  }
  ssize_t done;
  if (file->value == NULL)
    done = read(fd, file->content, sizeof file->content);
  else
    done = write(fd, file->value, strlen(file->value));
  if (done < 0)
    file->failure = (struct failure){errno, file->value == NULL ? "read" : "write"};
  else
    file->length = (size_t)done;
  close(fd);
}

static napi_value visit_file(napi_env env, char *netns_path, char *path, char *value, bool write) {
  struct small_file file = {.path = path == NULL ? "" : path, .value = write ? (value == NULL ? "" : value) : NULL};
  struct failure failure = {0, ""};
  bool visited = in_netns(netns_path, touch_file, &file, &failure);
  napi_value result = NULL;
  if (!visited)
    throw_failure(env, failure);
  else if (file.failure.number != 0)
    throw_failure(env, file.failure);
  else if (!write)
    napi_create_string_utf8(env, file.content, file.length, &result);
  free(netns_path);
  free(path);
  free(value);
  return result;
}

// readFileInNetns(netnsPath | null, path) -> string (at most 4096 bytes)
static napi_value read_file(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  char *netns_path = NULL, *path = NULL;
  if (!read_arguments(env, info, 2, arguments) || !read_string(env, arguments[0], &netns_path)) return NULL;
  if (!read_string(env, arguments[1], &path)) {
    free(netns_path);
    return NULL;
  }
  return visit_file(env, netns_path, path, NULL, false);
}

// writeFileInNetns(netnsPath | null, path, value)
static napi_value write_file(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  char *netns_path = NULL, *path = NULL, *value = NULL;
  if (!read_arguments(env, info, 3, arguments) || !read_string(env, arguments[0], &netns_path)) return NULL;
  if (!read_string(env, arguments[1], &path) || !read_string(env, arguments[2], &value)) {
    free(netns_path);
    free(path);
    return NULL;
  }
  return visit_file(env, netns_path, path, value, true);
}

void init_netns(napi_env env, napi_value exports) {
  static const struct function functions[] = {
      {"netnsInfo", netns_info},
      {"netnsOpen", netns_open},
      {"netnsInode", netns_inode},
      {"readFileInNetns", read_file},
      {"writeFileInNetns", write_file},
  };
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
