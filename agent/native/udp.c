// One UDP datagram to a port where nobody listens: the other kernel answers with ICMP "port unreachable", but only when the datagram's
// checksum is right. Sent once with a checksum (which a link may fill in, rightly or wrongly) and once without, that tells whether
// something spoils checksums on the way.
#include "weft.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct asking {
  struct sockaddr_in to, from;
  int no_checksum;
  int fd;
  struct failure failure;
};

static void ask(void *argument) {
  struct asking *asking = argument;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const char *call = "socket";
  bool good = fd >= 0;
  if (good) {
    call = "setsockopt";
    good = setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &asking->no_checksum, sizeof asking->no_checksum) == 0;
  }
  if (good) {
    call = "bind";
    good = bind(fd, (struct sockaddr *)&asking->from, sizeof asking->from) == 0;
  }
  if (good) {
    call = "connect";
    good = connect(fd, (struct sockaddr *)&asking->to, sizeof asking->to) == 0;
  }
  if (good) {
    call = "send";
    good = send(fd, "weft checksum probe", 19, 0) == 19;
  }
  asking->failure = (struct failure){good ? 0 : errno, call};
  if (!good && fd >= 0) close(fd);
  asking->fd = good ? fd : -1;
}

static bool read_place(napi_env env, napi_value value, struct sockaddr_in *place) {
  char *text;
  if (!read_string(env, value, &text)) return false;
  place->sin_family = AF_INET;
  bool good = text != NULL && inet_pton(AF_INET, text, &place->sin_addr) == 1;
  free(text);
  if (!good) napi_throw_type_error(env, NULL, "weft addon: an IPv4 address was expected");
  return good;
}

// udpAsk(netnsPath | null, to, source, port, withChecksum) -> fd
static napi_value udp_ask(napi_env env, napi_callback_info info) {
  napi_value arguments[5], result;
  int64_t port;
  bool checksum = true;
  struct asking asking = {.fd = -1};
  if (!read_arguments(env, info, 5, arguments) || !read_place(env, arguments[1], &asking.to) ||
      !read_place(env, arguments[2], &asking.from) || !read_int(env, arguments[3], &port))
    return NULL;
  napi_get_value_bool(env, arguments[4], &checksum);
  asking.to.sin_port = htons((uint16_t)port);
  asking.no_checksum = !checksum;
  char *path;
  if (!read_string(env, arguments[0], &path)) return NULL;
  struct failure failure = {0, ""};
  bool entered = in_netns(path, ask, &asking, &failure);
  free(path);
  if (!entered) return throw_failure(env, failure);
  if (asking.fd < 0) return throw_failure(env, asking.failure);
  napi_create_int32(env, asking.fd, &result);
  return result;
}

// udpAnswered(fd) -> true once "port unreachable" has come
static napi_value udp_answered(napi_env env, napi_callback_info info) {
  napi_value argument, result;
  int64_t fd;
  if (!read_arguments(env, info, 1, &argument) || !read_int(env, argument, &fd)) return NULL;
  char byte;
  bool answered = recv((int)fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNREFUSED;
  napi_get_boolean(env, answered, &result);
  return result;
}

void init_udp(napi_env env, napi_value exports) {
  static const struct function functions[] = {{"udpAsk", udp_ask}, {"udpAnswered", udp_answered}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
