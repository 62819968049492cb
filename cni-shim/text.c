// Growing buffers, JSON strings, the deadline and the two ways to end. Running out of memory or over the size limit ends the call
// with an error, so that no caller has to check.
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t deadline;
// A second failure while telling the first can only be memory.
static bool failing;

void text_add(struct text *text, const void *bytes, size_t length) {
  if (length > REQUEST_LIMIT - text->length) fail(CODE_DECODE, "the request is larger than 16 MiB", NULL);
  if (text->length + length > text->capacity) {
    size_t capacity = text->capacity == 0 ? 4096 : text->capacity;
    while (capacity < text->length + length) capacity *= 2;
    char *grown = realloc(text->bytes, capacity);
    if (grown == NULL) fail(CODE_IO, "the shim ran out of memory", NULL);
    text->bytes = grown;
    text->capacity = capacity;
  }
  if (length > 0) memcpy(text->bytes + text->length, bytes, length);
  text->length += length;
}

void text_string(struct text *text, const char *string) { text_add(text, string, strlen(string)); }

void text_number(struct text *text, unsigned long long number) {
  char digits[20];
  size_t at = sizeof digits;
  do digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  text_add(text, digits + at, sizeof digits - at);
}

const char *text_end(struct text *text) {
  text_add(text, "", 1);
  return text->bytes;
}

void text_json(struct text *text, const char *bytes, size_t length) {
  // Nothing was read: no arithmetic on a null pointer.
  if (length == 0) bytes = "";
  text_add(text, "\"", 1);
  size_t from = 0;
  for (size_t at = 0; at < length; at++) {
    unsigned char byte = (unsigned char)bytes[at];
    if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
    text_add(text, bytes + from, at - from);
    static const char digits[] = "0123456789abcdef";
    const char unicode[] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]}, plain[] = {'\\', (char)byte};
    if (byte < 0x20)
      text_add(text, unicode, sizeof unicode);
    else
      text_add(text, plain, sizeof plain);
    from = at + 1;
  }
  text_add(text, bytes + from, length - from);
  text_add(text, "\"", 1);
}

bool write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, bytes, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    length -= (size_t)written;
  }
  return true;
}

void say(const char *line) {
  struct text text = {0};
  text_string(&text, "weft: ");
  text_string(&text, line);
  text_string(&text, "\n");
  write_all(STDERR_FILENO, text.bytes, text.length);
  free(text.bytes);
}

_Noreturn void finish(const char *json, size_t length, int status) {
  if (write_all(STDOUT_FILENO, json, length)) _exit(status);
  say("cannot write the answer to stdout");
  _exit(1);
}

_Noreturn void fail(int code, const char *message, const char *details) {
  static const char last_words[] = "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"the shim ran out of memory\"}\n";
  if (failing) finish(last_words, sizeof last_words - 1, 1);
  failing = true;
  struct text json = {0};
  text_string(&json, "{\"cniVersion\":\"1.1.0\",\"code\":");
  text_number(&json, (unsigned)code);
  text_string(&json, ",\"msg\":");
  text_json(&json, message, strlen(message));
  if (details != NULL && details[0] != '\0') {
    text_string(&json, ",\"details\":");
    text_json(&json, details, strlen(details));
  }
  text_string(&json, "}\n");
  say(message);
  finish(json.bytes, json.length, 1);
}

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void deadline_start(int milliseconds) { deadline = now_ms() + milliseconds; }

int deadline_left(void) {
  int64_t left = deadline - now_ms();
  return left > 0 ? (int)left : 0;
}

void nap(int milliseconds) {
  int left = deadline_left();
  poll(NULL, 0, milliseconds < left ? milliseconds : left);
}
