// Traffic for the datapath bench. One server per pod, one client process per burst:
//
//   traffic server ADDRESS                                  prints "ready"; serves until killed
//   traffic burst ADDRESS tcp|udp|rr STREAMS MILLISECONDS   prints one line of JSON
//   traffic path ADDRESS WINDOWS MICROSECONDS               the same: what one datagram's way costs
//
//   tcp  each stream sends as fast as it can; the server answers with the number of bytes that came
//   udp  datagrams of 64 bytes as fast as they go; counted where they arrive, by a reader that looks for them again and again: one that
//        waits is woken by the sender, which costs as much as the way itself, and how often is chance
//   rr   one byte there, one byte back, over and over
//   path datagrams of 64 bytes that nobody reads, in windows of the sender's own CPU time, on one CPU at real-time priority: the kernel
//        works off each whole way in the sender's name, so the fastest window says what the way costs, whatever else runs
//
// CPU is what both processes used, the kernel's work in their name included (softirqs run in the sender's, as a rule).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum port { PORT_SINK = 5201, PORT_ECHO, PORT_COUNT, PORT_DATAGRAM, PORT_DISCARD };
#define CHUNK (128u << 10)
#define BATCH 64
#define DATAGRAM_BYTES 64
#define READ_EVERY_US 250

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t cpu_ns(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000u +
         ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000u;
}

static struct sockaddr_in place_of(const char *address, enum port port) {
  struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, address, &place.sin_addr) != 1) {
    fprintf(stderr, "no IPv4 address: %s\n", address);
    exit(2);
  }
  return place;
}

static int listen_on(const char *address, enum port port) {
  struct sockaddr_in place = place_of(address, port);
  int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&place, sizeof place) != 0 || listen(fd, 64) != 0) die("listen");
  return fd;
}

static int connect_to(const char *address, enum port port) {
  struct sockaddr_in place = place_of(address, port);
  int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&place, sizeof place) != 0) die("connect");
  return fd;
}

static bool read_whole(int fd, void *data, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t got = read(fd, (char *)data + at, length - at);
    if (got <= 0) return false;
    at += (size_t)got;
  }
  return true;
}

static atomic_uint_fast64_t datagrams;

static void *serve_sink(void *argument) {
  int fd = (int)(intptr_t)argument;
  char *room = malloc(CHUNK);
  uint64_t total = 0;
  for (ssize_t got; (got = read(fd, room, CHUNK)) > 0;) total += (uint64_t)got;
  if (write(fd, &total, sizeof total) < 0) perror("write");
  close(fd);
  free(room);
  return NULL;
}

static void *serve_echo(void *argument) {
  int on = 1, fd = (int)(intptr_t)argument;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  char byte;
  while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1) {
  }
  close(fd);
  return NULL;
}

static void *serve_count(void *argument) {
  int fd = (int)(intptr_t)argument;
  uint64_t answer[2] = {atomic_load(&datagrams), cpu_ns()};
  if (write(fd, answer, sizeof answer) < 0) perror("write");
  close(fd);
  return NULL;
}

static void *receive_datagrams(void *argument) {
  struct sockaddr_in place = place_of(argument, PORT_DATAGRAM);
  int room = 8 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  if (bind(fd, (struct sockaddr *)&place, sizeof place) != 0) die("bind");
  static char data[BATCH][DATAGRAM_BYTES];
  struct iovec parts[BATCH];
  struct mmsghdr messages[BATCH] = {0};
  for (int i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec){data[i], DATAGRAM_BYTES};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
  }
  for (;;) {
    int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    if (got > 0) atomic_fetch_add(&datagrams, (uint_fast64_t)got);
    if (got < BATCH) usleep(READ_EVERY_US);
  }
  return NULL;
}

struct service {
  int fd;
  void *(*serve)(void *);
};

static void *accept_all(void *argument) {
  struct service *service = argument;
  for (;;) {
    int fd = accept4(service->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) continue;
    pthread_t thread;
    if (pthread_create(&thread, NULL, service->serve, (void *)(intptr_t)fd) == 0)
      pthread_detach(thread);
    else
      close(fd);
  }
  return NULL;
}

/* Its small buffer is full after a few datagrams: the kernel drops the others where it would have kept them. */
static void never_read(const char *address) {
  struct sockaddr_in place = place_of(address, PORT_DISCARD);
  int room = 4096, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (bind(fd, (struct sockaddr *)&place, sizeof place) != 0) die("bind");
}

static int serve(char *address) {
  static struct service services[3];
  services[0] = (struct service){listen_on(address, PORT_SINK), serve_sink};
  services[1] = (struct service){listen_on(address, PORT_ECHO), serve_echo};
  services[2] = (struct service){listen_on(address, PORT_COUNT), serve_count};
  pthread_t thread;
  for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, accept_all, &services[i]);
  pthread_create(&thread, NULL, receive_datagrams, address);
  never_read(address);
  puts("ready");
  fflush(stdout);
  pthread_join(thread, NULL);
  return 0;
}

static uint64_t until_ns;

static void *send_stream(void *argument) {
  const char *address = argument;
  int fd = connect_to(address, PORT_SINK);
  char *data = calloc(1, CHUNK);
  while (now_ns() < until_ns) {
    if (write(fd, data, CHUNK) < 0) die("write");
  }
  shutdown(fd, SHUT_WR);
  uint64_t *total = calloc(1, sizeof *total);
  if (!read_whole(fd, total, sizeof *total)) die("read");
  close(fd);
  free(data);
  return total;
}

static uint64_t burst_tcp(const char *address, int streams) {
  pthread_t threads[64];
  uint64_t total = 0;
  for (int i = 0; i < streams; i++) pthread_create(&threads[i], NULL, send_stream, (void *)address);
  for (int i = 0; i < streams; i++) {
    void *bytes;
    pthread_join(threads[i], &bytes);
    total += *(uint64_t *)bytes;
    free(bytes);
  }
  return total;
}

static uint64_t burst_rr(const char *address) {
  int fd = connect_to(address, PORT_ECHO);
  uint64_t turns = 0;
  for (char byte = 1; now_ns() < until_ns; turns++) {
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) die("round trip");
  }
  close(fd);
  return turns;
}

static int datagrams_to(const char *address, enum port port) {
  struct sockaddr_in place = place_of(address, port);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&place, sizeof place) != 0) die("connect");
  return fd;
}

static int send_batch(int fd) {
  static char data[DATAGRAM_BYTES];
  static struct iovec part = {data, sizeof data};
  static struct mmsghdr messages[BATCH];
  for (int i = 0; i < BATCH; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
  int sent = sendmmsg(fd, messages, BATCH, 0);
  if (sent < 0 && errno != ENOBUFS && errno != ECONNREFUSED) die("sendmmsg");
  return sent < 0 ? 0 : sent;
}

static void burst_udp(const char *address) {
  int fd = datagrams_to(address, PORT_DATAGRAM);
  while (now_ns() < until_ns) send_batch(fd);
  close(fd);
}

static uint64_t own_cpu_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int path(const char *address, int windows, uint64_t window_ns) {
  cpu_set_t last;
  CPU_ZERO(&last);
  CPU_SET((size_t)sysconf(_SC_NPROCESSORS_ONLN) - 1, &last);
  struct sched_param priority = {.sched_priority = 20};
  if (sched_setaffinity(0, sizeof last, &last) != 0 || sched_setscheduler(0, SCHED_FIFO, &priority) != 0) die("sched");
  int fd = datagrams_to(address, PORT_DISCARD);
  double fastest = 1e9;
  uint64_t packets = 0, began = own_cpu_ns();
  for (int i = 0; i < windows; i++) {
    uint64_t sent = 0, from = own_cpu_ns(), now = from;
    for (; now - from < window_ns; now = own_cpu_ns()) sent += (uint64_t)send_batch(fd);
    packets += sent;
    if (sent > 0 && (double)(now - from) / (double)sent < fastest) fastest = (double)(now - from) / (double)sent;
  }
  printf("{\"packets\":%llu,\"cpuNs\":%llu,\"fastestNs\":%.1f}\n", (unsigned long long)packets,
         (unsigned long long)(own_cpu_ns() - began), fastest);
  return 0;
}

static void ask_count(const char *address, uint64_t answer[2]) {
  int fd = connect_to(address, PORT_COUNT);
  if (!read_whole(fd, answer, 2 * sizeof *answer)) die("count");
  close(fd);
}

static int burst(const char *address, const char *kind, int streams, int milliseconds) {
  uint64_t before[2], after[2], amount = 0;
  ask_count(address, before);
  uint64_t own = cpu_ns(), began = now_ns();
  until_ns = began + (uint64_t)milliseconds * 1000000u;
  if (strcmp(kind, "tcp") == 0)
    amount = burst_tcp(address, streams);
  else if (strcmp(kind, "rr") == 0)
    amount = burst_rr(address);
  else
    burst_udp(address);
  uint64_t took = now_ns() - began;
  own = cpu_ns() - own;
  usleep(4 * READ_EVERY_US);
  ask_count(address, after);
  if (strcmp(kind, "udp") == 0) amount = after[0] - before[0];
  printf("{\"amount\":%llu,\"tookNs\":%llu,\"cpuNs\":%llu}\n", (unsigned long long)amount, (unsigned long long)took,
         (unsigned long long)(own + after[1] - before[1]));
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && strcmp(argv[1], "server") == 0) return serve(argv[2]);
  if (argc == 6 && strcmp(argv[1], "burst") == 0) {
    int streams = atoi(argv[4]);
    return burst(argv[2], argv[3], streams < 1 ? 1 : streams > 64 ? 64 : streams, atoi(argv[5]));
  }
  if (argc == 5 && strcmp(argv[1], "path") == 0) return path(argv[2], atoi(argv[3]), (uint64_t)atoi(argv[4]) * 1000u);
  fprintf(stderr, "usage: traffic server ADDRESS | traffic burst ADDRESS tcp|udp|rr STREAMS MILLISECONDS | traffic path ADDRESS WINDOWS MICROSECONDS\n");
  return 2;
}
