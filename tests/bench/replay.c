/* The limit: sends netlink messages that another program has sent, with the same cuts, waits for as many answers, ends.
 *
 * usage: replay FILE    the file is made by record.py
 *
 * The file: records of four 32-bit numbers (kind, answers, flags, length) and so many bytes. Flags: 1, a refusal is an
 * answer too; 2, so is any message: it is a question about one thing.
 * A kind is the netlink protocol (0 NETLINK_ROUTE, 12 NETLINK_NETFILTER), or 99 for a setting: its path
 * and, after a zero byte, what is written to it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SETTING = 99, PROTOCOLS = 32, MAY_FAIL = 1, ANY = 2 };

struct record {
    uint32_t kind, answers, flags, length;
    char bytes[];
};

static int sockets[PROTOCOLS]; /* 0: not open */

static void die(const char *what) {
    fprintf(stderr, "replay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int opened(uint32_t protocol) {
    int one = 1, size = 1 << 23, fd = sockets[protocol];
    if (fd) return fd;
    if ((fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, (int)protocol)) < 0) die("socket");
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    if (bind(fd, (struct sockaddr *)&any, sizeof any)) die("bind");
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
    setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof one);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size)) die("SO_SNDBUFFORCE");
    return sockets[protocol] = fd;
}

static void set(const struct record *setting) {
    size_t path = strlen(setting->bytes) + 1;
    int fd = open(setting->bytes, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, setting->bytes + path, setting->length - path) < 0) die(setting->bytes);
    close(fd);
}

static void ask(const struct record *record) {
    static union { struct nlmsghdr header; char bytes[1 << 16]; } buffer;
    int fd = opened(record->kind);
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(fd, record->bytes, record->length, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) die("sendto");
    for (uint32_t left = record->answers; left > 0;) {
        ssize_t length = recv(fd, &buffer, sizeof buffer, 0);
        if (length < 0) die("recv");
        for (struct nlmsghdr *at = &buffer.header; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
            if (at->nlmsg_type != NLMSG_ERROR && at->nlmsg_type != NLMSG_DONE) {
                if (record->flags & ANY) left--;
                continue;
            }
            left--;
            errno = -((struct nlmsgerr *)NLMSG_DATA(at))->error;
            if (errno && !(record->flags & MAY_FAIL)) die("refused");
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: replay FILE\n");
        return 2;
    }
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) die(argv[1]);
    if (!status.st_size) return 0;
    char *at = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) die(argv[1]);
    for (char *end = at + status.st_size; at < end;) {
        const struct record *record = (struct record *)at;
        if (record->kind == SETTING) set(record); else ask(record);
        at += sizeof *record + (record->length + 3) / 4 * 4;
    }
    return 0;
}
