/* What a request and its response cost, for many pairs of sockets side by side; and what a new connection costs.
 *
 * One thread, pinned to one processor, owns both ends of every pair. A veth hands a packet over on the processor that
 * sent it, so all that the kernel does for a transaction, in system calls and in softirqs, is on this thread's clock,
 * and what other processes take is not.
 *
 * Standard input: a pair a line, `tcp|udp|tcp-new CLIENT-NAMESPACE SERVER-NAMESPACE CLIENT-ADDRESS SERVER-ADDRESS
 * PORT`. A transaction of `tcp-new` has a connection of its own: connect, request, response, and the client's reset,
 * so that no end waits for ports to become free.
 * Standard output: a line a round, the nanoseconds of a transaction of each pair, in the order of the input. Within
 * a round the pairs take their turns in random order, a slice each. No round begins after SECONDS (0: any may).
 *
 * usage: transactions PROCESSOR ROUNDS SLICE-NANOSECONDS SEED SECONDS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1024, BYTES = 16 };
enum { WARM = 200, PROBE = 300, AGAIN = 20 };          /* transactions: at first, to learn their time, before a slice */
enum { SETTLE = 3 }; /* seconds, after which tracking calls a flow of datagrams assured */
enum { NEW_WARM = 40, NEW_PROBE = 40, NEW_AGAIN = 3 }; /* the same for connections, which cost ten times as much */

struct pair {
    int client, server; /* new connections: -1 until there is one, and who listens */
    int is_new, home;   /* new connections: the client's namespace */
    struct sockaddr_in from, to;
    struct sockaddr_in peer; /* whom a datagram's answer goes to; TCP: nobody, the socket is connected */
    socklen_t peer_length;
    long count;  /* transactions of a slice */
    double took; /* ns a transaction, this round */
};

static struct pair pairs[MOST];

static void die(const char *what) {
    fprintf(stderr, "transactions: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)) die("clock");
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int enter(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET)) die(path);
    return fd;
}

static struct sockaddr_in at(const char *address, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) die(address);
    return to;
}

/* A packet that goes astray ends the program, some time. */
static void be_patient(int fd) {
    struct timeval patience = {.tv_sec = 5};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience)) die("SO_RCVTIMEO");
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience)) die("SO_SNDTIMEO");
}

static int make(const char *namespace, int type, struct sockaddr_in address) {
    close(enter(namespace));
    int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    be_patient(fd);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) die("bind");
    return fd;
}

static void undelayed(int fd) {
    int one = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one)) die("TCP_NODELAY");
}

/* The kernel hands all packets over before a call returns: nothing here ever waits. */
static void connect_anew(struct pair *pair, long count) {
    char bytes[BYTES] = {0};
    struct linger reset = {.l_onoff = 1};
    int one = 1;
    if (setns(pair->home, CLONE_NEWNET)) die("namespace");
    while (count--) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (client < 0) die("socket");
        be_patient(client);
        setsockopt(client, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset)) die("SO_LINGER");
        if (bind(client, (struct sockaddr *)&pair->from, sizeof pair->from)) die("bind");
        if (connect(client, (struct sockaddr *)&pair->to, sizeof pair->to)) die("connect");
        int server = accept4(pair->server, NULL, NULL, SOCK_CLOEXEC);
        if (server < 0) die("accept");
        if (send(client, bytes, BYTES, 0) != BYTES) die("request");
        if (recv(server, bytes, BYTES, 0) != BYTES) die("request not received");
        if (send(server, bytes, BYTES, 0) != BYTES) die("response");
        if (recv(client, bytes, BYTES, 0) != BYTES) die("response not received");
        close(client);
        if (recv(server, bytes, BYTES, 0) != -1 || errno != ECONNRESET) die("no reset");
        close(server);
    }
}

static void transact(struct pair *pair, long count) {
    if (pair->is_new) {
        connect_anew(pair, count);
        return;
    }
    char bytes[BYTES] = {0};
    struct sockaddr *to = pair->peer_length ? (struct sockaddr *)&pair->peer : NULL;
    while (count--) {
        if (send(pair->client, bytes, BYTES, 0) != BYTES) die("request");
        if (recv(pair->server, bytes, BYTES, 0) != BYTES) die("request not received");
        if (sendto(pair->server, bytes, BYTES, 0, to, pair->peer_length) != BYTES) die("response");
        if (recv(pair->client, bytes, BYTES, 0) != BYTES) die("response not received");
    }
}

static void open_pair(struct pair *pair, const char *kind, char *from, char *to, char *source, char *address,
                      int port) {
    int is_tcp = strcmp(kind, "udp"), type = is_tcp ? SOCK_STREAM : SOCK_DGRAM;
    struct sockaddr_in server = at(address, port);
    pair->server = make(to, type, server);
    if ((pair->is_new = !strcmp(kind, "tcp-new"))) {
        if (listen(pair->server, 16)) die("listen");
        pair->client = -1;
        pair->home = enter(from);
        pair->from = at(source, 0);
        pair->to = server;
        return;
    }
    pair->client = make(from, type, at(source, 0));
    if (is_tcp && listen(pair->server, 1)) die("listen");
    if (connect(pair->client, (struct sockaddr *)&server, sizeof server)) die("connect");
    if (is_tcp) {
        int listener = pair->server;
        if ((pair->server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) die("accept");
        close(listener);
        undelayed(pair->server);
        undelayed(pair->client);
    } else {
        pair->peer_length = sizeof pair->peer;
        if (getsockname(pair->client, (struct sockaddr *)&pair->peer, &pair->peer_length)) die("getsockname");
    }
}

int main(int argc, char **argv) {
    char kind[8], from[64], to[64], source[64], address[64];
    int port, count = 0, order[MOST];
    cpu_set_t set;
    if (argc != 6) {
        fprintf(stderr, "usage: transactions PROCESSOR ROUNDS SLICE-NANOSECONDS SEED SECONDS < PAIRS\n");
        return 2;
    }
    CPU_ZERO(&set);
    CPU_SET(atoi(argv[1]), &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("processor");
    srand48(atol(argv[4]));
    while (scanf("%7s %63s %63s %63s %63s %d", kind, from, to, source, address, &port) == 6) {
        if (count == MOST) die("too many pairs");
        open_pair(&pairs[count], kind, from, to, source, address, port);
        order[count] = count;
        count++;
    }
    for (int i = 0; i < count; i++) {
        int probe = pairs[i].is_new ? NEW_PROBE : PROBE;
        transact(&pairs[i], pairs[i].is_new ? NEW_WARM : WARM);
        int64_t before = now();
        transact(&pairs[i], probe);
        pairs[i].count = atol(argv[3]) * probe / (now() - before) + 1;
    }
    if (atol(argv[2])) sleep(SETTLE);
    time_t end = atol(argv[5]) ? time(NULL) + atol(argv[5]) : 0;
    for (long round = atol(argv[2]); round > 0 && (!end || time(NULL) < end); round--) {
        for (int i = count - 1; i > 0; i--) {
            int other = lrand48() % (i + 1), swap = order[i];
            order[i] = order[other];
            order[other] = swap;
        }
        for (int i = 0; i < count; i++) {
            struct pair *pair = &pairs[order[i]];
            transact(pair, pair->is_new ? NEW_AGAIN : AGAIN); /* caches, after another pair's turn */
            int64_t before = now();
            transact(pair, pair->count);
            pair->took = (double)(now() - before) / pair->count;
        }
        for (int i = 0; i < count; i++) printf("%.1f%c", pairs[i].took, i + 1 < count ? ' ' : '\n');
        fflush(stdout);
    }
    return 0;
}
