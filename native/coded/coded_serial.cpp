#define POCKETVLM_ISA serial
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
