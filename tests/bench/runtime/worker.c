/*
 * A worker of the start storm: starts a program again as soon as it has ended, so many times, and takes next to no time
 * of its own, which a script would take from the processors that are measured.
 *
 *   worker TIMES PROGRAM [ARG...]
 *
 * The program's input and output are the null device. Ends with 1 as soon as it fails.
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: worker TIMES PROGRAM [ARG...]\n");
        return 2;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    for (int left = atoi(argv[1]); left > 0; left--) {
        pid_t pid;
        int status, failed = posix_spawn(&pid, argv[2], &actions, NULL, argv + 2, environ);
        if (failed) {
            fprintf(stderr, "worker: %s: %s\n", argv[2], strerror(failed));
            return 1;
        }
        if (waitpid(pid, &status, 0) != pid || status) {
            fprintf(stderr, "worker: %s ended with wait status %#x\n", argv[2], status);
            return 1;
        }
    }
    return 0;
}
