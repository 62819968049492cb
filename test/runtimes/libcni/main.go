// One operation of libcni, as a container runtime has it: told by JSON on stdin, answered by JSON on stdout, exit 0 either way.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

type call struct {
	Verb         string
	Conf         json.RawMessage // a network configuration list
	Path         []string        // CNI_PATH
	Cache        string          // directory of cached results
	ContainerID  string
	Netns        string
	IfName       string
	Args         map[string]string
	Capabilities map[string]any
	Valid        []types.GCAttachment
}

type answer struct {
	Result any          `json:"result,omitempty"`
	Error  *types.Error `json:"error,omitempty"`
	Said   string       `json:"said,omitempty"`
}

func main() {
	var asked call
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	result, err := perform(asked)
	given := answer{Result: result}
	if err != nil {
		given.Said = err.Error()
		given.Error = &types.Error{}
		errors.As(err, &given.Error)
	}
	if err := json.NewEncoder(os.Stdout).Encode(given); err != nil {
		os.Exit(2)
	}
}

func perform(asked call) (any, error) {
	ctx := context.Background()
	cni := libcni.NewCNIConfigWithCacheDir(asked.Path, asked.Cache, nil)
	list, err := libcni.NetworkConfFromBytes(asked.Conf)
	if err != nil {
		return nil, err
	}
	container := &libcni.RuntimeConf{
		ContainerID: asked.ContainerID, NetNS: asked.Netns, IfName: asked.IfName, CapabilityArgs: asked.Capabilities,
	}
	for key, value := range asked.Args {
		container.Args = append(container.Args, [2]string{key, value})
	}
	switch asked.Verb {
	case "add":
		return cni.AddNetworkList(ctx, list, container)
	case "del":
		return nil, cni.DelNetworkList(ctx, list, container)
	case "check":
		return nil, cni.CheckNetworkList(ctx, list, container)
	case "gc":
		return nil, cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: asked.Valid})
	case "status":
		return nil, cni.GetStatusNetworkList(ctx, list)
	case "validate":
		return cni.ValidateNetworkList(ctx, list)
	case "version":
		info, err := cni.GetVersionInfo(ctx, list.Plugins[0].Network.Type)
		if err != nil {
			return nil, err
		}
		return info.SupportedVersions(), nil
	}
	return nil, fmt.Errorf("unknown verb %q", asked.Verb)
}
