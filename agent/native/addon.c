// Module entry, and the few helpers by which the other files read arguments and throw. Errors carry errno and the failing
// call as numbers and names, never only as text: the layers above decide by them.
#include "weft.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

napi_value failure_value(napi_env env, struct failure failure) {
  char text[256];
  const char *reason = strerror(failure.number);
  size_t length = strlen(failure.call);
  if (length > 60) length = 60;
  memcpy(text, failure.call, length);
  text[length] = ':';
  text[length + 1] = ' ';
  strncpy(text + length + 2, reason, sizeof text - length - 3);
  text[sizeof text - 1] = 0;

  napi_value message, error, number, call;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, NULL, message, &error);
  napi_create_int32(env, failure.number, &number);
  napi_set_named_property(env, error, "errno", number);
  napi_create_string_utf8(env, failure.call, NAPI_AUTO_LENGTH, &call);
  napi_set_named_property(env, error, "syscall", call);
  return error;
}

napi_value throw_failure(napi_env env, struct failure failure) {
  napi_throw(env, failure_value(env, failure));
  return NULL;
}

bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, arguments, NULL, NULL) == napi_ok && given >= count) return true;
  napi_throw_type_error(env, NULL, "weft addon: too few arguments");
  return false;
}

bool read_int(napi_env env, napi_value value, int64_t *result) {
  if (napi_get_value_int64(env, value, result) == napi_ok) return true;
  napi_throw_type_error(env, NULL, "weft addon: a number was expected");
  return false;
}

bool read_string(napi_env env, napi_value value, char **result) {
  *result = NULL;
  napi_valuetype type;
  if (napi_typeof(env, value, &type) == napi_ok && (type == napi_null || type == napi_undefined)) return true;
  size_t length;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) {
    napi_throw_type_error(env, NULL, "weft addon: a string or null was expected");
    return false;
  }
  if (length == 0) return true;
  char *copy = malloc(length + 1);
  if (copy == NULL) {
    napi_throw_error(env, NULL, "weft addon: out of memory");
    return false;
  }
  napi_get_value_string_utf8(env, value, copy, length + 1, &length);
  if (strlen(copy) != length) {
    free(copy);
    napi_throw_type_error(env, NULL, "weft addon: a string must not hold a NUL");
    return false;
  }
  *result = copy;
  return true;
}

bool read_bytes(napi_env env, napi_value value, uint8_t **data, size_t *length) {
  bool is_buffer = false;
  if (napi_is_buffer(env, value, &is_buffer) == napi_ok && is_buffer &&
      napi_get_buffer_info(env, value, (void **)data, length) == napi_ok)
    return true;
  napi_throw_type_error(env, NULL, "weft addon: a buffer was expected");
  return false;
}

// Every handle begins with its tag's address, so that one kind is never taken for another.
bool read_external(napi_env env, napi_value value, const void *tag, void **result) {
  napi_valuetype type;
  if (napi_typeof(env, value, &type) == napi_ok && type == napi_external && napi_get_value_external(env, value, result) == napi_ok &&
      *result != NULL && *(const void **)*result == tag)
    return true;
  napi_throw_type_error(env, NULL, "weft addon: another handle was expected");
  return false;
}

void add_functions(napi_env env, napi_value exports, const struct function *functions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].callback, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
}

NAPI_MODULE_INIT() {
  init_netns(env, exports);
  init_netlink(env, exports);
  init_digest(env, exports);
  init_monitor(env, exports);
  init_nftables(env, exports);
  init_probe(env, exports);
  init_udp(env, exports);
  init_memory(env, exports);
  init_listener(env, exports);
  return exports;
}
