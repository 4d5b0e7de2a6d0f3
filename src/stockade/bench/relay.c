/* The least that a data plane in user space can do: packets from a TUN device, behind an IP header, to a raw socket, and
 * back. No cryptography, no tables, no checks, one packet at a time; for `bench esp` to show what the way through user
 * space costs on a machine before anything is secured.
 *
 *     relay LOCAL PEER        makes the device "relay0", prints "ready", goes on until its input ends
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PROTOCOL = 253 /* for experiments (RFC 3692) */, HEADER = 20, LARGEST = 65536 };

int main(int count, char **words)
{
    static uint8_t packet[HEADER + LARGEST];
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int device = open("/dev/net/tun", O_RDWR), sock = socket(AF_INET, SOCK_RAW, PROTOCOL);
    strcpy(request.ifr_name, "relay0");
    if (count != 3 || device < 0 || sock < 0 || ioctl(device, TUNSETIFF, &request)
        || inet_pton(AF_INET, words[2], &to.sin_addr) != 1)
        return 1;
    puts("ready");
    fflush(stdout);
    struct pollfd entries[3] = {{device, POLLIN, 0}, {sock, POLLIN, 0}, {0, POLLIN, 0}};
    while (poll(entries, 3, -1) >= 0 && !entries[2].revents) {
        ssize_t size;
        if (entries[0].revents && (size = read(device, packet, LARGEST)) > 0
            && sendto(sock, packet, (size_t)size, 0, (struct sockaddr *)&to, sizeof to) < 0)
            continue;
        if (entries[1].revents && (size = recv(sock, packet, sizeof packet, 0)) > HEADER
            && write(device, packet + HEADER, (size_t)size - HEADER) < 0)
            continue;
    }
    return 0;
}
