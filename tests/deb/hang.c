// Loaded into the agent, it lets the sampler or the drain hang for as long as a
// file says so.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static void hang(const char *while_there) {
    while (access(while_there, F_OK) == 0)
        usleep(50000);
}

// The main thread waits here between two samples.
int epoll_wait(int fd, struct epoll_event *events, int most, int timeout_ms) {
    int (*real)(int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");
    int ready = real(fd, events, most, timeout_ms);
    hang("/run/hang-sampler");
    return ready;
}

// A file of the lake gets its name by this.
int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (strstr(to, "/lake/"))
        hang("/run/hang-drain");
    return real(from, to);
}
