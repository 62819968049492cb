// The whole shim in one process, call after call: its sources are included here with the world around them (environment, stdin, agent,
// clock, files) replaced by one input. Built by libFuzzer, or by any compiler with a generator of its own (generate.c):
//
//   input:  VARIABLE 0x1f VARIABLE … 0x1e STDIN 0x1e ANSWER     no ANSWER: nobody listens
//
// What must hold beside what the sanitizers watch: stdout is empty or one JSON object, an error is always told there, and what is
// posted to the agent is one JSON object whose strings hold no control byte.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PIECES 64
#define LEAVES 4096

static struct {
  const char *stdin_bytes, *answer;
  size_t stdin_length, stdin_at, answer_length;
  bool listens;
  char out[1 << 21];
  size_t out_length;
  int64_t clock_ms;
  int agent_end, shim_end;
  char kept[512];
  jmp_buf end;
  void *leaves[LEAVES];
  size_t leaf_count;
} world;

static char spool[64] = "/tmp/weft-fuzz-XXXXXX";

_Noreturn static void broken(const char *what) {
  fprintf(stderr, "broken: %s\nstdout: %.*s\n", what, (int)world.out_length, world.out);
  abort();
}

_Noreturn static void world_exit(int status) { longjmp(world.end, status + 1); }

static ssize_t world_write(int fd, const void *bytes, size_t length) {
  if (fd == STDERR_FILENO) return (ssize_t)length;
  if (fd != STDOUT_FILENO) return write(fd, bytes, length);
  if (length > sizeof world.out - world.out_length) broken("more than 2 MiB on stdout");
  memcpy(world.out + world.out_length, bytes, length);
  world.out_length += length;
  return (ssize_t)length;
}

static ssize_t world_read(int fd, void *bytes, size_t length) {
  if (fd != STDIN_FILENO) return read(fd, bytes, length);
  size_t left = world.stdin_length - world.stdin_at;
  if (length > left) length = left;
  memcpy(bytes, world.stdin_bytes + world.stdin_at, length);
  world.stdin_at += length;
  return (ssize_t)length;
}

static int world_poll(struct pollfd *fds, nfds_t count, int milliseconds) {
  world.clock_ms += count == 0 ? milliseconds : 1;
  if (count == 1 && fds[0].fd != STDIN_FILENO) return poll(fds, count, 0);
  return (int)count;
}

static int world_connect(int fd, const struct sockaddr *address, socklen_t length) {
  (void)address, (void)length;
  int pair[2];
  if (!world.listens) {
    errno = ENOENT;
    return -1;
  }
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0 || dup2(pair[0], fd) < 0) abort();
  close(pair[0]);
  world.shim_end = fd;
  if (world.agent_end >= 0) close(world.agent_end);
  world.agent_end = pair[1];
  if (send(pair[1], world.answer, world.answer_length, MSG_NOSIGNAL) < 0 && world.answer_length > 0) errno = 0;
  shutdown(pair[1], SHUT_WR);
  return 0;
}

// Every look takes a millisecond, so that no wait is endless.
static int world_clock(clockid_t clock, struct timespec *now) {
  (void)clock;
  world.clock_ms++;
  *now = (struct timespec){world.clock_ms / 1000, world.clock_ms % 1000 * 1000000};
  return 0;
}

static int world_renameat(int from, const char *old, int to, const char *name) {
  snprintf(world.kept, sizeof world.kept, "%s/%s", spool, name);
  return renameat(from, old, to, name);
}

static void *world_realloc(void *old, size_t size) {
  for (size_t at = 0; old != NULL && at < world.leaf_count; at++)
    if (world.leaves[at] == old) return world.leaves[at] = realloc(old, size);
  if (world.leaf_count == LEAVES) abort();
  return world.leaves[world.leaf_count++] = realloc(NULL, size);
}

static void world_free(void *old) {
  for (size_t at = 0; old != NULL && at < world.leaf_count; at++)
    if (world.leaves[at] == old) world.leaves[at] = NULL;
  free(old);
}

#define main shim_main
#define _exit world_exit
#define write world_write
#define read world_read
#define poll world_poll
#define connect world_connect
#define clock_gettime world_clock
#define renameat world_renameat
#define realloc world_realloc
#define free world_free
#define fsync(fd) ((void)(fd), 0)
#define setitimer(which, new_value, old_value) (void)(new_value)
#define sigaction(number, new_action, old_action) (void)(new_action)
#include "../../cni-shim/text.c"
#include "../../cni-shim/agent.c"
#include "../../cni-shim/spool.c"
#include "../../cni-shim/shim.c"
#undef main
#undef _exit
#undef write
#undef read
#undef poll
#undef connect
#undef realloc
#undef free

// One JSON object as far as braces, quotes and control bytes tell.
static bool is_object(const char *bytes, size_t length) {
  while (length > 0 && (bytes[length - 1] == '\n' || bytes[length - 1] == ' ')) length--;
  if (length < 2 || bytes[0] != '{' || bytes[length - 1] != '}') return false;
  int depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < length; at++) {
    unsigned char byte = (unsigned char)bytes[at];
    if (quoted) {
      if (byte < 0x20) return false;
      if (byte == '\\') at++;
      quoted = byte != '"';
      continue;
    }
    if (byte == '"') quoted = true;
    depth += byte == '{' || byte == '[' ? 1 : byte == '}' || byte == ']' ? -1 : 0;
    if (depth <= 0 && at + 1 < length) return false;
  }
  return depth == 0 && !quoted;
}

static void check_request(void) {
  if (world.agent_end < 0) return;
  static char request[1 << 22];
  ssize_t got = recv(world.agent_end, request, sizeof request, MSG_DONTWAIT);
  if (got <= 0) return;
  char *body = memmem(request, (size_t)got, "\r\n\r\n", 4);
  // What did not fit into the socket's buffer is not looked at.
  if (body == NULL || got > 100000) return;
  body += 4;
  if (!is_object(body, (size_t)(request + got - body))) broken("what the agent was sent is no JSON object");
}

static bool is_agents(void) {
  return world.listens && world.answer_length >= world.out_length &&
         memmem(world.answer, world.answer_length, world.out, world.out_length) != NULL;
}

static void check_output(int status) {
  if (status != 0 && status != 1) broken("an exit code other than 0 and 1");
  if (status == 1 && world.out_length == 0) broken("an error without a word on stdout");
  // The agent's words are passed on as they are.
  if (world.out_length > 0 && !is_agents() && !is_object(world.out, world.out_length)) broken("stdout is no JSON object");
}

static const char *piece(const char *from, const char *end, char separator) {
  const char *found = memchr(from, separator, (size_t)(end - from));
  return found == NULL ? end : found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static char socket_setting[] = "WEFT_SOCKET=/nowhere/cni.sock";
  static char spool_setting[sizeof spool + 16];
  if (spool_setting[0] == '\0') {
    if (mkdtemp(spool) == NULL) abort();
    snprintf(spool_setting, sizeof spool_setting, "WEFT_SPOOL_DIR=%s", spool);
  }
  char *copy = malloc(size + 1), *variables[PIECES + 3];
  if (copy == NULL) abort();
  memcpy(copy, data, size);
  copy[size] = '\0';
  char *end = copy + size, *env_end = (char *)piece(copy, end, 0x1e);
  size_t count = 0;
  for (char *at = copy; at < env_end && count < PIECES;) {
    char *stop = (char *)piece(at, env_end, 0x1f);
    *stop = '\0';
    // Only CNI's own: the shim's settings would lead it out of this world.
    if (strncmp(at, "CNI_", 4) == 0) variables[count++] = at;
    at = stop + 1;
  }
  variables[count++] = socket_setting;
  variables[count++] = spool_setting;
  variables[count] = NULL;
  char *in = env_end < end ? env_end + 1 : end, *in_end = (char *)piece(in, end, 0x1e);
  world.stdin_bytes = in;
  world.stdin_length = (size_t)(in_end - in);
  world.listens = in_end < end;
  world.answer = world.listens ? in_end + 1 : end;
  world.answer_length = (size_t)(end - world.answer);
  world.stdin_at = world.out_length = world.leaf_count = 0;
  world.clock_ms = 1000;
  world.agent_end = world.shim_end = -1;
  world.kept[0] = '\0';
  failing = false;
  char **before = environ;
  environ = variables;
  int jumped = setjmp(world.end);
  if (jumped == 0) jumped = shim_main() + 1;
  environ = before;
  check_output(jumped - 1);
  check_request();
  if (world.agent_end >= 0) close(world.agent_end);
  if (world.kept[0] != '\0') unlink(world.kept);
  for (size_t at = 0; at < world.leaf_count; at++) free(world.leaves[at]);
  // An exit in the middle of an exchange leaves its socket open.
  if (world.shim_end >= 0 && world.shim_end != world.agent_end) close(world.shim_end);
  free(copy);
  return 0;
}
