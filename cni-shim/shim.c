// /opt/cni/bin/weft: what the container runtime executes. It carries CNI's environment and stdin to the agent's Unix socket and the
// answer back, within a bounded time, and holds no policy: the agent checks every argument again. Without an agent it answers
// VERSION, keeps a DEL for later (spool.c), waits a while for the others, and says in every error what to look at.
//
//   runtime ──env, stdin──▶ shim ──POST /cni──▶ agent
//           ◀──stdout, 0/1──     ◀──200 or not──
#define _GNU_SOURCE
#include "shim.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define NSFS_MAGIC_NUMBER 0x6e736673
#define VERSIONS "\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""

extern char **environ;

enum { NEEDS_CONTAINER = 1, NEEDS_NETNS = 2, NEEDS_IFNAME = 4, NEEDS_PATH = 8 };

struct verb {
  const char *name;
  int needs;
  int whole_ms;   // the whole call
  int connect_ms; // of that, how long an absent agent is waited for
};

static const struct verb verbs[] = {
    {"ADD", NEEDS_CONTAINER | NEEDS_NETNS | NEEDS_IFNAME, ADD_MS, ADD_CONNECT_MS},
    {"DEL", NEEDS_CONTAINER | NEEDS_IFNAME, DEL_MS, 0},
    {"CHECK", NEEDS_CONTAINER | NEEDS_NETNS | NEEDS_IFNAME, CHECK_MS, CHECK_CONNECT_MS},
    {"STATUS", 0, STATUS_MS, 0},
    {"GC", NEEDS_PATH, GC_MS, GC_CONNECT_MS},
};

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value == NULL || value[0] == '\0' ? otherwise : value;
}

static const struct verb *find_verb(const char *name) {
  for (size_t at = 0; at < sizeof verbs / sizeof verbs[0]; at++)
    if (strcmp(verbs[at].name, name) == 0) return &verbs[at];
  struct text message = {0};
  text_string(&message, "unknown CNI_COMMAND ");
  text_json(&message, name, strlen(name));
  text_string(&message, "; weft knows ADD, DEL, CHECK, GC, STATUS and VERSION");
  fail(CODE_ENVIRONMENT, text_end(&message), NULL);
}

static void require_environment(const struct verb *verb) {
  static const struct {
    int need;
    const char *name;
  } variables[] = {{NEEDS_CONTAINER, "CNI_CONTAINERID"},
                   {NEEDS_NETNS, "CNI_NETNS"},
                   {NEEDS_IFNAME, "CNI_IFNAME"},
                   {NEEDS_PATH, "CNI_PATH"}};
  struct text message = {0};
  for (size_t at = 0; at < sizeof variables / sizeof variables[0]; at++) {
    if ((verb->needs & variables[at].need) == 0 || setting(variables[at].name, NULL) != NULL) continue;
    text_string(&message, message.length == 0 ? "required environment variables missing: " : ", ");
    text_string(&message, variables[at].name);
  }
  if (message.length > 0) fail(CODE_ENVIRONMENT, text_end(&message), verb->name);
}

// The last resort where poll cannot bound a wait: a reader of stdout that stands still, a disk that hangs.
static void on_alarm(int signal) {
  static const char json[] =
      "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"the call did not end in its time; look at the node's disk and load\"}\n";
  (void)signal;
  write_all(STDOUT_FILENO, json, sizeof json - 1);
  _exit(1);
}

static void bound_call(int milliseconds) {
  deadline_start(milliseconds);
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
  int backstop = milliseconds + 500;
  struct itimerval timer = {.it_value = {backstop / 1000, backstop % 1000 * 1000}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static struct text read_stdin(void) {
  struct text content = {0};
  for (;;) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = poll(&input, 1, deadline_left());
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) fail(CODE_IO, "the network configuration did not end: stdin stayed open until the call's deadline", NULL);
    char chunk[16384];
    ssize_t received = read(STDIN_FILENO, chunk, sizeof chunk);
    if (received < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (received < 0) fail(CODE_IO, "cannot read the network configuration from stdin", strerror(errno));
    if (received == 0) return content;
    text_add(&content, chunk, (size_t)received);
    if (content.length > STDIN_LIMIT) fail(CODE_DECODE, "the network configuration on stdin is larger than 1 MiB", NULL);
  }
}

// The inode behind CNI_NETNS, or 0 where there is no network namespace. Ends with code 8 inside that very namespace.
static unsigned long long netns_inode(void) {
  const char *path = setting("CNI_NETNS", NULL);
  struct stat given, own;
  struct statfs filesystem;
  if (path == NULL || stat(path, &given) != 0) return 0;
  if (statfs(path, &filesystem) != 0 || filesystem.f_type != NSFS_MAGIC_NUMBER) return 0;
  if (stat("/proc/self/ns/net", &own) == 0 && own.st_dev == given.st_dev && own.st_ino == given.st_ino)
    fail(CODE_NETNS, "CNI_NETNS is the network namespace that weft itself runs in; it must be the container's own", path);
  return given.st_ino;
}

// The first line of a small file; empty when it cannot be read.
static void read_small(const char *path, char *into, size_t size) {
  into[0] = '\0';
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t length = read(fd, into, size - 1);
  close(fd);
  into[length > 0 ? length : 0] = '\0';
  into[strcspn(into, "\n")] = '\0';
}

static struct text request_body(const struct text *stdin_text, unsigned long long inode, const char *boot_id) {
  struct text body = {0};
  text_string(&body, "{\"env\":{");
  bool first = true;
  for (char **variable = environ; *variable != NULL; variable++) {
    const char *equals = strchr(*variable, '=');
    if (strncmp(*variable, "CNI_", 4) != 0 || equals == NULL) continue;
    if (!first) text_string(&body, ",");
    first = false;
    text_json(&body, *variable, (size_t)(equals - *variable));
    text_string(&body, ":");
    text_json(&body, equals + 1, strlen(equals + 1));
  }
  text_string(&body, "},\"stdin\":");
  text_json(&body, stdin_text->bytes, stdin_text->length);
  text_string(&body, ",\"netnsInode\":\"");
  if (inode != 0) text_number(&body, inode);
  text_string(&body, "\",\"bootId\":\"");
  text_string(&body, boot_id);
  text_string(&body, "\"}");
  return body;
}

// CONTAINERID@IFNAME.json: the id's letters cannot hold an @, so no two attachments share a name.
static const char *spool_name(void) {
  const char *id = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME");
  if (strlen(id) > 200 || !isalnum((unsigned char)id[0])) fail(CODE_ENVIRONMENT, "CNI_CONTAINERID is not a container id", id);
  for (const char *letter = id; *letter != '\0'; letter++)
    if (!isalnum((unsigned char)*letter) && strchr("_.-", *letter) == NULL)
      fail(CODE_ENVIRONMENT, "CNI_CONTAINERID is not a container id", id);
  if (strlen(ifname) > 15 || strchr(ifname, '/') != NULL) fail(CODE_ENVIRONMENT, "CNI_IFNAME is not an interface name", ifname);
  struct text name = {0};
  text_string(&name, id);
  text_string(&name, "@");
  text_string(&name, ifname);
  text_string(&name, ".json");
  return text_end(&name);
}

// The agent is away: the DEL is kept, then the agent is tried once more, in case it came up meanwhile and has drained already.
static enum exchange keep_del(const char *socket_path, const struct text *body, struct answer *answer) {
  const char *directory = setting("WEFT_SPOOL_DIR", "/var/lib/weft/spool");
  const char *name = spool_name(), *step = "";
  if (!spool_write(directory, name, body, &step)) {
    struct text message = {0};
    const char *error = strerror(errno);
    text_string(&message, "the weft agent is away and the DEL could not be kept for it in ");
    text_string(&message, directory);
    text_string(&message, ": cannot ");
    text_string(&message, step);
    text_string(&message, ": ");
    text_string(&message, error);
    text_string(&message, ". Free space there or start the agent (kubectl -n weft get pods -o wide, or systemctl status weft).");
    fail(CODE_IO, text_end(&message), NULL);
  }
  enum exchange outcome = exchange(socket_path, body, answer);
  if (outcome == EXCHANGE_ANSWERED) return outcome;
  struct text line = {0};
  text_string(&line, "the agent is away; the DEL is kept for it as ");
  text_string(&line, name);
  say(text_end(&line));
  finish("", 0, 0);
}

// Without an agent STATUS is no error while the last one's word holds: it leaves "BOOT_ID SECONDS", uptime seconds, beside its socket.
static _Noreturn void status_without_agent(const char *socket_path, const char *boot_id) {
  struct text marker = {0};
  const char *slash = strrchr(socket_path, '/');
  text_add(&marker, socket_path, slash == NULL ? 0 : (size_t)(slash - socket_path + 1));
  text_string(&marker, "served");
  const char *path = text_end(&marker);
  char served[128];
  read_small(path, served, sizeof served);
  size_t boot_length = strlen(boot_id);
  bool this_boot = boot_length > 0 && strncmp(served, boot_id, boot_length) == 0 && served[boot_length] == ' ';
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  if (!this_boot)
    fail(CODE_STATUS, "no weft agent has served on this node since it booted. Check that the agent runs (kubectl -n weft get pods -o wide, "
                      "or systemctl status weft).", path);
  if (now.tv_sec > atoll(served + boot_length))
    fail(CODE_STATUS, "the weft agent has been silent for too long. Check that it runs (kubectl -n weft get pods -o wide, or systemctl "
                      "status weft).", path);
  say("the agent does not answer; it served lately, so this is no failure of the network");
  finish("", 0, 0);
}

static _Noreturn void fail_without_answer(enum exchange outcome, int error, const char *socket_path, const struct answer *answer) {
  static const char next[] = " Check that the agent runs on this node (kubectl -n weft get pods -o wide, or systemctl status weft).";
  struct text message = {0};
  const char *details = socket_path;
  if (outcome == EXCHANGE_AWAY) {
    text_string(&message, "the weft agent is away: cannot connect to ");
    text_string(&message, socket_path);
    text_string(&message, ": ");
    text_string(&message, strerror(error));
    text_string(&message, ".");
  } else if (outcome == EXCHANGE_CUT) {
    text_string(&message, "the weft agent went away before it had answered; the runtime may try again.");
  } else if (outcome == EXCHANGE_LATE) {
    text_string(&message, "the weft agent did not answer in time; look at its log and at `weft status`.");
  } else {
    text_string(&message, "the weft agent's answer cannot be used; do shim and agent have the same release?");
    details = answer->reason;
  }
  text_string(&message, next);
  fail(outcome == EXCHANGE_GARBAGE ? CODE_INTERNAL : CODE_LATER, text_end(&message), details);
}

static void open_standard_files(void) {
  int fd;
  do fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

int main(void) {
  open_standard_files();
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); // a limit of the caller's: an error to tell, not an end
  const char *command = setting("CNI_COMMAND", NULL);
  if (command == NULL) {
    say("the CNI plugin of the Weft pod network; a container runtime executes it and sets CNI_COMMAND.\n"
        "CNI protocol versions supported: " VERSIONS);
    return 0;
  }
  if (strcmp(command, "VERSION") == 0) {
    static const char json[] = "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[" VERSIONS "]}\n";
    finish(json, sizeof json - 1, 0);
  }
  const struct verb *verb = find_verb(command);
  require_environment(verb);
  bound_call(verb->whole_ms);
  struct text stdin_text = read_stdin();
  char boot_id[64];
  read_small("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
  unsigned long long inode = (verb->needs & NEEDS_CONTAINER) != 0 ? netns_inode() : 0;
  struct text body = request_body(&stdin_text, inode, boot_id);
  const char *socket_path = setting("WEFT_SOCKET", "/run/weft/cni.sock");
  bool is_del = strcmp(verb->name, "DEL") == 0, is_status = strcmp(verb->name, "STATUS") == 0;
  struct answer answer = {0};
  int64_t connect_until = now_ms() + verb->connect_ms;
  enum exchange outcome = exchange(socket_path, &body, &answer);
  int error = errno;
  while (outcome == EXCHANGE_AWAY && now_ms() < connect_until && deadline_left() > 0) {
    nap(50);
    outcome = exchange(socket_path, &body, &answer);
    error = errno;
  }
  if (is_del && (outcome == EXCHANGE_AWAY || outcome == EXCHANGE_CUT)) outcome = keep_del(socket_path, &body, &answer);
  if (is_status && (outcome == EXCHANGE_AWAY || outcome == EXCHANGE_CUT || outcome == EXCHANGE_LATE))
    status_without_agent(socket_path, boot_id);
  if (outcome != EXCHANGE_ANSWERED) fail_without_answer(outcome, error, socket_path, &answer);
  finish(answer.body, answer.length, answer.status == 200 ? 0 : 1);
}
