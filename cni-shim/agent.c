// One HTTP/1.1 exchange over the agent's Unix socket, every wait bounded by the call's deadline. The agent sends Content-Length
// always; an answer without it, of another shape or above the limit is garbage, and one that ends early is cut: neither is a result.
#define _GNU_SOURCE
#include "shim.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HEAD_LIMIT 16384

// True when fd has one of the events (or an error or end to report) before the deadline.
static bool wait_for(int fd, short events) {
  for (;;) {
    struct pollfd one = {.fd = fd, .events = events};
    int ready = poll(&one, 1, deadline_left());
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR && errno != EAGAIN) return false;
  }
}

// The connected socket, or -1: errno ETIMEDOUT when a listening agent took nobody in before the deadline.
static int dial(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  while (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    int error = errno;
    if (error == EINTR) continue;
    // A full backlog: the agent is alive and busy.
    if (error == EAGAIN && deadline_left() > 0) {
      nap(5);
      continue;
    }
    close(fd);
    errno = error == EAGAIN ? ETIMEDOUT : error;
    return -1;
  }
  return fd;
}

// False at the deadline. A peer that stops reading is no failure yet: it may have answered early (request too large).
static bool send_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes += sent;
      length -= (size_t)sent;
    } else if (errno == EAGAIN) {
      if (!wait_for(fd, POLLOUT)) return false;
    } else if (errno != EINTR) {
      return true;
    }
  }
  return true;
}

// The value of Content-Length among the header lines, or -1 when absent, twice or no number.
static long content_length(const char *head, const char *end) {
  static const char name[] = "content-length:";
  long found = -1;
  for (const char *line = head; line < end;) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    if (stop == NULL) stop = end;
    if ((size_t)(stop - line) > sizeof name - 1 && strncasecmp(line, name, sizeof name - 1) == 0) {
      if (found >= 0) return -1;
      const char *digit = line + sizeof name - 1;
      while (digit < stop && (*digit == ' ' || *digit == '\t')) digit++;
      if (digit == stop || !isdigit((unsigned char)*digit)) return -1;
      for (found = 0; digit < stop && isdigit((unsigned char)*digit) && found <= ANSWER_LIMIT; digit++)
        found = found * 10 + (*digit - '0');
      if (found <= ANSWER_LIMIT && digit < stop && *digit != '\r') return -1;
    }
    line = stop + 1;
  }
  return found;
}

static enum exchange garbage(struct answer *answer, const char *reason) {
  answer->reason = reason;
  return EXCHANGE_GARBAGE;
}

// A body is empty or one JSON object, as far as its ends tell.
static bool looks_like_object(const char *body, size_t length) {
  while (length > 0 && isspace((unsigned char)body[length - 1])) length--;
  return length >= 2 && body[0] == '{' && body[length - 1] == '}';
}

static enum exchange read_answer(int fd, struct answer *answer) {
  struct text got = {0};
  size_t whole = 0; // length of head and body, once the head is known
  for (;;) {
    char chunk[16384];
    ssize_t received = recv(fd, chunk, sizeof chunk, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) {
      if (!wait_for(fd, POLLIN)) return EXCHANGE_LATE;
      continue;
    }
    if (received <= 0) return EXCHANGE_CUT;
    text_add(&got, chunk, (size_t)received);
    if (whole == 0) {
      if (memcmp(got.bytes, "HTTP/1.1 ", got.length < 9 ? got.length : 9) != 0) return garbage(answer, "it is not HTTP/1.1");
      char *end = memmem(got.bytes, got.length, "\r\n\r\n", 4);
      if (end == NULL) {
        if (got.length > HEAD_LIMIT) return garbage(answer, "its header does not end");
        continue;
      }
      answer->status = atoi(got.bytes + 9);
      if (answer->status < 200 || answer->status > 599) return garbage(answer, "its status is no HTTP status");
      long length = content_length(got.bytes, end);
      if (length < 0) return garbage(answer, "it has no proper Content-Length");
      if (length > ANSWER_LIMIT) return garbage(answer, "it is larger than 1 MiB");
      answer->length = (size_t)length;
      whole = (size_t)(end + 4 - got.bytes) + answer->length;
    }
    if (got.length > whole) return garbage(answer, "more came than its Content-Length says");
    if (got.length == whole) break;
  }
  answer->body = got.bytes + whole - answer->length;
  bool empty = answer->length == 0 && answer->status == 200;
  if (!empty && !looks_like_object(answer->body, answer->length)) return garbage(answer, "its body is not a JSON object");
  return EXCHANGE_ANSWERED;
}

enum exchange exchange(const char *socket_path, const struct text *body, struct answer *answer) {
  int fd = dial(socket_path);
  if (fd < 0) return errno == ETIMEDOUT ? EXCHANGE_LATE : EXCHANGE_AWAY;
  // One send for the usual request: the agent's parser wakes once.
  struct text request = {0};
  text_string(&request, "POST /cni HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ");
  text_number(&request, body->length);
  text_string(&request, "\r\n\r\n");
  text_add(&request, body->bytes, body->length);
  enum exchange outcome = EXCHANGE_LATE;
  if (send_all(fd, request.bytes, request.length)) outcome = read_answer(fd, answer);
  free(request.bytes);
  close(fd);
  return outcome;
}
