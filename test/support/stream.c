// A numbered stream between two namespaces, to tell whether anything on the way lost a packet.
//
//   stream udp-sink PORT [ADDRESS]   receives; answers each line on stdin with {"received":N,"highest":N,"maxGapMs":N}
//   stream udp-source ADDRESS PORT   sends one number each millisecond until stdin ends, then prints {"sent":N}
//   stream tcp-sink PORT [ADDRESS]   accepts one stream and checks that its numbers come in order; answers as udp-sink
//   stream tcp-source ADDRESS PORT   the same as udp-source over TCP; prints {"sent":N,"retransmitted":N}
//                                    without those sent again for nothing (the other end says so), as on a busy machine
//
// Sinks print {"listening":true} first. IPv4 or IPv6. A send that the own host refuses (ENETUNREACH and so on) counts as sent: it is
// a lost packet.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_NUMBERS (1u << 22)

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static socklen_t parse(const char *address, const char *port, struct sockaddr_storage *place) {
  memset(place, 0, sizeof *place);
  struct sockaddr_in *v4 = (struct sockaddr_in *)place;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)place;
  uint16_t number = htons((uint16_t)atoi(port));
  if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = number;
    return sizeof *v4;
  }
  if (inet_pton(AF_INET6, address, &v6->sin6_addr) != 1) {
    fprintf(stderr, "no address: %s\n", address);
    exit(2);
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = number;
  return sizeof *v6;
}

static bool *seen;
static uint64_t received, highest, last_us, max_gap_us;

static void take(uint64_t number) {
  uint64_t now = now_us();
  if (number == 0 || number >= MAX_NUMBERS) return;
  if (last_us != 0 && now - last_us > max_gap_us) max_gap_us = now - last_us;
  last_us = now;
  if (!seen[number]) received++;
  seen[number] = true;
  if (number > highest) highest = number;
}

// True when stdin has ended.
static bool answer_questions(void) {
  char line[64];
  ssize_t got = read(0, line, sizeof line);
  if (got <= 0) return true;
  printf("{\"received\":%llu,\"highest\":%llu,\"maxGapMs\":%llu}\n", (unsigned long long)received,
         (unsigned long long)highest, (unsigned long long)(max_gap_us / 1000));
  fflush(stdout);
  return false;
}

static int sink(bool tcp, const char *port, const char *address) {
  seen = calloc(MAX_NUMBERS, sizeof *seen);
  struct sockaddr_storage place;
  socklen_t length = parse(address, port, &place);
  int fd = socket(place.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
  int on = 1, room = 8 << 20;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  if (bind(fd, (struct sockaddr *)&place, length) != 0) die("bind");
  if (tcp && listen(fd, 1) != 0) die("listen");
  printf("{\"listening\":true}\n");
  fflush(stdout);
  bool accepted = !tcp;
  uint8_t buffer[1 << 16];
  size_t kept = 0;
  uint64_t expected = 1;
  for (;;) {
    struct pollfd waiting[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) die("poll");
    if (waiting[0].revents != 0) {
      if (!accepted) {
        int stream = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (stream < 0) die("accept");
        close(fd);
        fd = stream;
        accepted = true;
        continue;
      }
      ssize_t got = recv(fd, buffer + kept, sizeof buffer - kept, MSG_DONTWAIT);
      if (got < 0 && errno != EAGAIN) die("recv");
      if (got == 0 && tcp) {
        close(fd);
        fd = -1;
      }
      size_t have = kept + (got > 0 ? (size_t)got : 0), at = 0;
      for (; at + 8 <= have; at += 8) {
        uint64_t number;
        memcpy(&number, buffer + at, 8);
        if (tcp && number != expected++) {
          fprintf(stderr, "number %llu came out of order\n", (unsigned long long)number);
          return 1;
        }
        take(number);
      }
      kept = tcp ? have - at : 0;
      if (kept > 0) memmove(buffer, buffer + at, kept);
    }
    if (waiting[1].revents != 0 && answer_questions()) return 0;
  }
}

static int source(bool tcp, const char *address, const char *port) {
  struct sockaddr_storage place;
  socklen_t length = parse(address, port, &place);
  int fd = socket(place.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
  int on = 1;
  if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&place, length) != 0) die("connect");
  uint64_t began = now_us(), sent = 0;
  for (;;) {
    uint64_t due = (now_us() - began) / 1000;
    // A machine that was away for long sends the rest at once, but never a flood.
    for (int burst = 0; sent < due && burst < 50; burst++) {
      uint64_t number = ++sent;
      ssize_t done = send(fd, &number, sizeof number, MSG_NOSIGNAL);
      if (done < 0 && tcp) die("send");
    }
    struct pollfd waiting = {.fd = 0, .events = POLLIN};
    if (poll(&waiting, 1, 1) > 0) break;
  }
  struct tcp_info info = {0};
  socklen_t room = sizeof info;
  if (tcp) getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &room);
  printf("{\"sent\":%llu,\"retransmitted\":%u}\n", (unsigned long long)sent,
         info.tcpi_total_retrans > info.tcpi_dsack_dups ? info.tcpi_total_retrans - info.tcpi_dsack_dups : 0);
  fflush(stdout);
  // The connection stays until the sink has been asked.
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  if (tcp) pause();
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc >= 3 && strcmp(argv[1], "udp-sink") == 0) return sink(false, argv[2], argc > 3 ? argv[3] : "0.0.0.0");
  if (argc >= 3 && strcmp(argv[1], "tcp-sink") == 0) return sink(true, argv[2], argc > 3 ? argv[3] : "0.0.0.0");
  if (argc == 4 && strcmp(argv[1], "udp-source") == 0) return source(false, argv[2], argv[3]);
  if (argc == 4 && strcmp(argv[1], "tcp-source") == 0) return source(true, argv[2], argv[3]);
  fprintf(stderr, "usage: stream udp-sink|tcp-sink PORT [ADDRESS] | udp-source|tcp-source ADDRESS PORT\n");
  return 2;
}
