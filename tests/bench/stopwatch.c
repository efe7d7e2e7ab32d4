/* How long it takes to install something in a network namespace.
 *
 * The namespace is entered, and the files for standard input are opened, before the clock starts. Programs are started
 * by posix_spawn, which shares the memory of this small program, so starting costs the same for every subject.
 * What a program writes to standard output is lost; what it says on standard error is shown by whoever started this.
 *
 * usage: stopwatch NAMESPACE RULES STDIN PROGRAM [ARGUMENT]... [-- STDIN PROGRAM [ARGUMENT]...]...
 * RULES = 0: one program after another, until the last one has ended.
 * Otherwise the first one is a daemon: all are started at once, and the clock stops when all others have ended and the
 * kernel has told of so many new rules and of two new routes for each. The namespace is `-`, this one.
 * Standard output: nanoseconds. A program that fails ends it with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, PATIENCE = 20000 /* ms */ };

extern char **environ;

struct step {
    char **arguments;
    posix_spawn_file_actions_t files;
    pid_t child;
};

static struct step steps[MOST];

static void die(const char *what, int error) {
    fprintf(stderr, "stopwatch: %s: %s\n", what, strerror(error));
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time)) die("clock", errno);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int opened(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) die(path, errno);
    return fd;
}

/* Names of tables are written to a folder of the machine: to one that nobody else sees. */
static void enter(const char *name) {
    const char *names = "/etc/iproute2/rt_tables.d";
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = opened(path, O_RDONLY);
    if (setns(fd, CLONE_NEWNET)) die(path, errno);
    close(fd);
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("mounts", errno);
    if (!access(names, F_OK) && mount("none", names, "tmpfs", 0, NULL)) die(names, errno);
}

static void start(struct step *step) {
    char **arguments = step->arguments;
    int error = posix_spawnp(&step->child, arguments[0], &step->files, NULL, arguments, environ);
    if (error) die(arguments[0], error);
}

static void finish(struct step *step) {
    int status;
    if (waitpid(step->child, &status, 0) < 0) die("waitpid", errno);
    if (status) {
        fprintf(stderr, "stopwatch: %s ended with status %#x\n", step->arguments[0], status);
        exit(1);
    }
}

static int listener(void) {
    struct sockaddr_nl groups = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE};
    int size = 1 << 24, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&groups, sizeof groups)) die("rtnetlink", errno);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return fd;
}

static void await(int fd, int rules) {
    static union { struct nlmsghdr header; char bytes[1 << 16]; } buffer;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    for (int routes = 2 * rules; rules > 0 || routes > 0;) {
        if (poll(&ready, 1, PATIENCE) <= 0) die("rules and routes", ETIMEDOUT);
        ssize_t length = recv(fd, &buffer, sizeof buffer, 0);
        if (length < 0) die("news of rules and routes", errno);
        for (struct nlmsghdr *at = &buffer.header; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
            struct rtmsg *route = NLMSG_DATA(at); /* the own tables of the kernel come with the addresses */
            rules -= at->nlmsg_type == RTM_NEWRULE;
            routes -= at->nlmsg_type == RTM_NEWROUTE && route->rtm_protocol != RTPROT_KERNEL;
        }
    }
}

int main(int argc, char **argv) {
    int count = 0;
    if (argc < 5) {
        fprintf(stderr, "usage: stopwatch NAMESPACE RULES STDIN PROGRAM [ARGUMENT]... [-- STDIN PROGRAM...]...\n");
        return 2;
    }
    if (strcmp(argv[1], "-")) enter(argv[1]);
    int rules = atoi(argv[2]), news = rules ? listener() : -1, nowhere = opened("/dev/null", O_WRONLY);
    for (int at = 3; at + 1 < argc; at++) {
        if (count == MOST) die("programs", E2BIG);
        struct step *step = &steps[count++];
        posix_spawn_file_actions_init(&step->files);
        posix_spawn_file_actions_adddup2(&step->files, opened(argv[at], O_RDONLY), 0);
        posix_spawn_file_actions_adddup2(&step->files, nowhere, 1);
        step->arguments = &argv[++at];
        while (at < argc && strcmp(argv[at], "--")) at++;
        argv[at] = NULL;
    }
    setpriority(PRIO_PROCESS, 0, -20); /* what else runs on this machine should take little of the time */
    int64_t began = now();
    for (int i = 0; i < count; i++) {
        start(&steps[i]);
        if (!rules) finish(&steps[i]);
    }
    if (rules) {
        for (int i = 1; i < count; i++) finish(&steps[i]);
        await(news, rules);
    }
    printf("%lld\n", (long long)(now() - began));
    if (rules) {
        kill(steps[0].child, SIGTERM);
        waitpid(steps[0].child, NULL, 0);
    }
    return 0;
}
