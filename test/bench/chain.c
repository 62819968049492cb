// Stands in for the runtime where several plugins make one network: executes the plugins of a list as libcni does, each ADD with the
// result of the one before, DEL in the opposite order with the result of ADD. So that both sides of a bench pay for it, a list of one
// plugin runs through it too.
//
//   chain < LIST      environment: CNI_* of the call; CHAIN_CACHE, a directory for the results of ADD
//
// LIST has a line for each plugin: its program, a tab, its configuration without prevResult. @PORT@ in it becomes 20000 and the number at
// the end of the container's id.
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 8
#define TEXT 65536

extern char **environ;

static char list[TEXT], previous[TEXT], conf[2 * TEXT];

static size_t read_all(int file, char *text) {
  size_t length = 0;
  for (ssize_t got; length < TEXT - 1 && (got = pread(file, text + length, TEXT - 1 - length, length)) > 0;) length += got;
  text[length] = 0;
  return length;
}

static void configure(const char *json, int port) {
  char *out = conf;
  for (const char *in = json; *in != 0;) {
    if (strncmp(in, "@PORT@", 6) == 0) {
      out += sprintf(out, "%d", port);
      in += 6;
    } else {
      *out++ = *in++;
    }
  }
  // The closing brace goes behind the previous result.
  if (previous[0] != 0) out += sprintf(out - 1, ",\"prevResult\":%s}", previous) - 1;
  *out = 0;
}

static int run(const char *program, int output) {
  int input = memfd_create("conf", MFD_CLOEXEC);
  if (write(input, conf, strlen(conf)) < 0) return 1;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", input);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, path, O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output, 1);
  char *arguments[] = {(char *)program, NULL};
  pid_t pid;
  int status = 1;
  if (posix_spawn(&pid, program, &files, NULL, arguments, environ) == 0) waitpid(pid, &status, 0);
  close(input);
  return status;
}

int main(void) {
  const char *command = getenv("CNI_COMMAND"), *id = getenv("CNI_CONTAINERID"), *cache = getenv("CHAIN_CACHE");
  if (command == NULL || id == NULL || cache == NULL) return 2;
  int is_add = strcmp(command, "ADD") == 0, count = 0;
  const char *dash = strrchr(id, '-');
  int port = 20000 + (dash == NULL ? 0 : atoi(dash + 1));
  char *programs[MOST], *confs[MOST], cached[512];
  read_all(0, list);
  for (char *line = strtok(list, "\n"); line != NULL && count < MOST; line = strtok(NULL, "\n")) {
    char *tab = strchr(line, '\t');
    if (tab == NULL) return 2;
    *tab = 0;
    programs[count] = line;
    confs[count++] = tab + 1;
  }
  snprintf(cached, sizeof cached, "%s/%s", cache, id);
  if (!is_add) {
    int file = open(cached, O_RDONLY | O_CLOEXEC);
    if (file >= 0) read_all(file, previous);
  }
  for (int at = 0; at < count; at++) {
    int index = is_add ? at : count - 1 - at, output = memfd_create("result", MFD_CLOEXEC);
    configure(confs[index], port);
    int status = run(programs[index], output);
    if (is_add || status != 0) read_all(output, previous);
    close(output);
    if (status != 0) {
      printf("%s: %s", programs[index], previous);
      return 1;
    }
  }
  if (!is_add) return 0;
  int file = open(cached, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  return file >= 0 && write(file, previous, strlen(previous)) >= 0 ? 0 : 1;
}
